//! Tables of requests and the answers RFC 9110 asks for, by curl and by hand.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use boot_manifest::Digest;

use crate::provider::{PATIENCE, Provider, Tree, wait_until};

const KERNEL: &str = "/stable/x86_64/vmlinuz";

fn content() -> Vec<u8> {
    (0..1_000_u32).map(|at| (at * 7 % 251) as u8).collect()
}

fn tag(content: &[u8]) -> String {
    format!("\"{}\"", Digest::of(content).hex())
}

#[test]
fn ranges() {
    let content = content();
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", &content),
        ("stable/x86_64/empty", b""),
    ]);
    let provider = Provider::start(tree.root(), &[]);
    for (range, status, content_range, expected) in [
        ("bytes=0-0", 206, "bytes 0-0/1000", &content[..1]),
        ("bytes=0-1023", 206, "bytes 0-999/1000", &content[..]),
        ("bytes=10-19", 206, "bytes 10-19/1000", &content[10..20]),
        ("bytes=990-", 206, "bytes 990-999/1000", &content[990..]),
        ("bytes=-10", 206, "bytes 990-999/1000", &content[990..]),
        ("bytes=-5000", 206, "bytes 0-999/1000", &content[..]),
        // Too near to each other to be worth two parts.
        ("bytes=0-1,5-6", 206, "bytes 0-6/1000", &content[..7]),
        ("bytes=6-5", 200, "", &content[..]),
        ("lines=0-1", 200, "", &content[..]),
        ("nonsense", 200, "", &content[..]),
    ] {
        let answer = provider.curl(KERNEL, &["-H", &format!("Range: {range}")]);
        assert_eq!(answer.status, status, "{range}");
        assert_eq!(answer.field("content-range"), content_range, "{range}");
        assert_eq!(
            answer.field("content-length"),
            expected.len().to_string(),
            "{range}"
        );
        assert_eq!(answer.field("accept-ranges"), "bytes", "{range}");
        assert_eq!(answer.field("etag"), tag(&content), "{range}");
        assert_eq!(answer.body, expected, "{range}");
    }
    for range in ["bytes=1000-", "bytes=5000-6000", "bytes=-0"] {
        let answer = provider.curl(KERNEL, &["-H", &format!("Range: {range}")]);
        assert_eq!(
            (answer.status, answer.field("content-range").as_str()),
            (416, "bytes */1000"),
            "{range}"
        );
        assert_eq!(
            answer.field("content-length"),
            answer.body.len().to_string()
        );
    }
    let empty = provider.get("/stable/x86_64/empty");
    assert_eq!(
        (empty.status, empty.field("content-length").as_str()),
        (200, "0")
    );
    assert_eq!(
        provider.curl("/stable/x86_64/empty", &["-r", "0-5"]).status,
        416
    );
}

#[test]
fn several_ranges_are_sent_as_parts() {
    let content: Vec<u8> = (0..200_000_u32).map(|at| (at * 7 % 251) as u8).collect();
    let small = &content[..20_000];
    let tree = Tree::new(&[
        // One that is sent from the file, and one that is kept in memory.
        ("stable/x86_64/vmlinuz", &content),
        ("stable/x86_64/phase.efi", small),
    ]);
    let provider = Provider::start(tree.root(), &[]);
    for (path, media_type, size) in [
        (KERNEL, "application/octet-stream", 200_000),
        ("/stable/x86_64/phase.efi", "application/efi", 20_000),
    ] {
        let answer = provider.curl(path, &["-r", "9000-9009,0-4,-7"]);
        assert_eq!(answer.status, 206);
        let length = answer.field("content-length");
        assert_eq!(length, answer.body.len().to_string());
        assert_eq!(answer.field("etag"), tag(&content[..size]));
        let boundary = answer.field("content-type");
        let boundary = boundary.strip_prefix("multipart/byteranges; boundary=");
        let boundary = boundary.unwrap().to_owned();
        let mut expected = Vec::new();
        for (start, end) in [(9_000, 9_010), (0, 5), (size - 7, size)] {
            let lines = format!(
                "--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: bytes {start}-{}/{size}\r\n\r\n",
                end - 1
            );
            expected.extend_from_slice(lines.as_bytes());
            expected.extend_from_slice(&content[start..end]);
            expected.extend_from_slice(b"\r\n");
        }
        expected.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
        assert!(answer.body == expected, "{path}: {}", answer.text());
    }
}

#[test]
fn refusals_are_lines_for_people_and_problem_details_for_programs() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", &content())]);
    let provider = Provider::start(tree.root(), &[]);
    for (path, flags, status) in [
        ("/nothing", &[][..], 404),
        ("/stable/x86_64/nothing", &[], 404),
        ("/testing/x86_64/manifest.json", &[], 404),
        ("/stable/../x", &[], 400),
        (KERNEL, &["-X", "POST"], 405),
        (KERNEL, &["-X", "BREW"], 501),
        (KERNEL, &["-r", "5000-"], 416),
        (KERNEL, &["-H", "If-Match: \"x\""], 412),
        (KERNEL, &["-H", "Expect: miracles"], 417),
    ] {
        let person = provider.curl(path, flags);
        assert_eq!(person.status, status, "{path} {flags:?}");
        assert_eq!(person.field("content-type"), "text/plain; charset=utf-8");
        assert!(person.text().len() > 15, "{path}: {}", person.text());
        let program = [flags, &["-H", "Accept: application/json"]].concat();
        let answer = provider.curl(path, &program);
        assert_eq!(answer.status, status, "{path} {flags:?}");
        assert_eq!(answer.field("content-type"), "application/problem+json");
        assert_eq!(answer.field("vary"), "Accept");
        let problem = answer.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], "about:blank");
        assert_eq!(problem["instance"], answer.field("x-request-id").as_str());
        assert!(problem["title"].is_string(), "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert_eq!(detail, person.text().trim_end(), "{path}");
        // The head of a HEAD is that of the GET.
        if flags.is_empty() {
            let head = provider.curl(path, &[&program[..], &["-I"]].concat());
            let without_date = |head: &str| {
                let lines = head.lines().filter(|line| !line.starts_with("Date"));
                // Every request has an id of its own.
                let lines = lines.filter(|line| !line.starts_with("X-Request-Id"));
                lines.map(str::to_owned).collect::<Vec<_>>()
            };
            assert_eq!(
                without_date(&head.head),
                without_date(&answer.head),
                "{path}"
            );
        }
    }
}

#[test]
fn preconditions() {
    let content = content();
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", &content)]);
    let provider = Provider::start(tree.root(), &[]);
    let first = provider.get(KERNEL);
    let (tag, modified) = (tag(&content), first.field("last-modified"));
    assert_eq!(first.field("etag"), tag);
    let other = "\"0000\"";
    for (fields, status) in [
        (vec![format!("If-None-Match: {tag}")], 304),
        (vec![format!("If-None-Match: {other}, W/{tag}")], 304),
        (vec!["If-None-Match: *".to_owned()], 304),
        (vec![format!("If-None-Match: {other}")], 200),
        (vec![format!("If-Modified-Since: {modified}")], 304),
        (
            vec!["If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT".to_owned()],
            200,
        ),
        (
            vec![format!("If-Match: {tag}"), "Range: bytes=0-9".to_owned()],
            206,
        ),
        (
            vec![format!("If-Match: {other}"), "Range: bytes=0-9".to_owned()],
            412,
        ),
        (
            vec![
                format!("If-Unmodified-Since: {modified}"),
                "Range: bytes=0-9".to_owned(),
            ],
            206,
        ),
        (
            vec!["If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT".to_owned()],
            412,
        ),
        (
            vec![format!("If-Range: {tag}"), "Range: bytes=0-9".to_owned()],
            206,
        ),
        (
            vec![format!("If-Range: {other}"), "Range: bytes=0-9".to_owned()],
            200,
        ),
    ] {
        let flags: Vec<&str> = fields
            .iter()
            .flat_map(|field| ["-H", field.as_str()])
            .collect();
        let answer = provider.curl(KERNEL, &flags);
        assert_eq!(answer.status, status, "{fields:?}");
        if status == 304 {
            assert!(answer.body.is_empty());
            assert_eq!(answer.field("etag"), tag, "{fields:?}");
        }
    }
}

#[test]
fn pages_without_a_tag_have_preconditions_too() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", &content())]);
    let provider = Provider::start(tree.root(), &["--arch", "x86_64"]);
    for page in ["/", "/health", "/status", "/metrics"] {
        for (field, status) in [
            ("If-Match: *", 200),
            ("If-Match: \"x\"", 412),
            ("If-None-Match: \"x\"", 200),
            ("If-None-Match: *", 304),
            ("If-Modified-Since: Fri, 31 Dec 9999 23:59:59 GMT", 200),
            ("If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT", 200),
        ] {
            let answer = provider.curl(page, &["-H", field]);
            assert_eq!(answer.status, status, "{page} {field}");
        }
    }
    // What is no success is said whatever was asked for.
    for (path, status) in [("/none", 404), ("/stable/aarch64/manifest.json", 404)] {
        let answer = provider.curl(path, &["-H", "If-None-Match: *"]);
        assert_eq!(answer.status, status, "{path}");
    }
}

#[test]
fn nothing_was_modified_later_than_now() {
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", &content()),
        ("stable/x86_64/rootfs.img", &[9; 100_000]),
    ]);
    let tomorrow = std::time::SystemTime::now() + std::time::Duration::from_secs(86_400);
    for name in ["vmlinuz", "rootfs.img"] {
        let path = tree.path(&format!("stable/x86_64/{name}"));
        let file = fs::File::options().write(true).open(path);
        file.unwrap().set_modified(tomorrow).unwrap();
    }
    let provider = Provider::start(tree.root(), &[]);
    for path in [KERNEL, "/stable/x86_64/rootfs.img", "/manifest.json"] {
        let answer = provider.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let date = |name| httpdate::parse_http_date(&answer.field(name)).unwrap();
        assert!(date("last-modified") <= date("date"), "{}", answer.head);
        let since = format!("If-Modified-Since: {}", answer.field("last-modified"));
        assert_eq!(provider.curl(path, &["-H", &since]).status, 304, "{path}");
    }
}

#[test]
fn heads_types_and_methods() {
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", &content()),
        ("stable/x86_64/phase.efi", b"MZ"),
        ("stable/arm64/vmlinuz", b"arm"),
    ]);
    let provider = Provider::start(tree.root(), &["--arch", "amd64"]);
    let head = provider.curl(KERNEL, &["-I"]);
    assert_eq!(
        (head.status, head.field("content-length").as_str()),
        (200, "1000")
    );
    assert!(head.body.is_empty());
    assert_eq!(
        head.field("x-artifact-hash"),
        Digest::of(&content()).to_string()
    );
    // Range has no meaning for HEAD.
    assert_eq!(provider.curl(KERNEL, &["-I", "-r", "0-9"]).status, 200);
    for (path, expected) in [
        (KERNEL, "application/octet-stream"),
        ("/stable/x86_64/phase.efi", "application/efi"),
        ("/manifest.json", "application/json"),
        ("/status", "application/json"),
        ("/nothing", "text/plain; charset=utf-8"),
    ] {
        let answer = provider.get(path);
        assert_eq!(answer.field("content-type"), expected, "{path}");
        assert_eq!(
            answer.field("content-length"),
            answer.body.len().to_string(),
            "{path}"
        );
        assert!(!answer.fields().contains_key("transfer-encoding"), "{path}");
    }
    for (method, status) in [
        ("OPTIONS", 200),
        ("POST", 405),
        ("PUT", 405),
        ("DELETE", 405),
        ("PATCH", 405),
        ("TRACE", 405),
    ] {
        let answer = provider.curl(KERNEL, &["-X", method]);
        assert_eq!(
            (answer.status, answer.field("allow").as_str()),
            (status, "GET, HEAD, OPTIONS"),
            "{method}"
        );
    }
    assert_eq!(provider.curl(KERNEL, &["-X", "NONSENSE"]).status, 501);
    // Some firmware compares names letter by letter.
    for name in [
        "Content-Length: ",
        "Content-Type: ",
        "Accept-Ranges: ",
        "Etag: ",
    ] {
        assert!(head.head.contains(name), "{}", head.head);
    }
    assert_eq!(provider.get("/stable/aarch64/kernel").body, b"arm");
}

#[test]
fn paths() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), b"secret").unwrap();
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", b"kernel"),
        ("stable/x86_64/.vmlinuz.partial", b"half"),
        ("top", b"not in a folder"),
    ]);
    symlink(
        outside.path().join("secret"),
        tree.path("stable/x86_64/linked"),
    )
    .unwrap();
    symlink("vmlinuz", tree.path("stable/x86_64/bzImage")).unwrap();
    symlink(outside.path(), tree.path("escaped")).unwrap();
    fs::create_dir(tree.path("stable/x86_64/folder")).unwrap();
    let fifo = tree.path("stable/x86_64/fifo");
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::Mode::from_raw_mode(0o666),
    )
    .unwrap();
    let provider = Provider::start(tree.root(), &[]);
    for (path, status) in [
        (KERNEL, 200),
        ("//stable//x86_64//vmlinuz", 200),
        ("/stable/x86%5f64/vmlinu%7A", 200),
        ("/stable/x86_64/vmlinuz?query=..", 200),
        ("/stable/amd64/kernel", 200),
        ("/stable/x86_64/nothing", 404),
        ("/stable/x86_64/vmlinuz/", 404),
        ("/stable/x86_64/vmlinuz/x", 404),
        ("/stable/x86_64/.vmlinuz.partial", 404),
        ("/stable/x86_64/", 404),
        ("/stable/x86_64", 404),
        ("/top", 404),
        ("/stable/riscv64/vmlinuz", 404),
        ("/testing/x86_64/manifest.json", 404),
        ("/stable/x86_64/linked", 403),
        ("/stable/x86_64/bzImage", 403),
        ("/escaped/x86_64/secret", 403),
        ("/stable/x86_64/folder", 403),
        ("/stable/x86_64/fifo", 403),
        ("/../../../etc/passwd", 400),
        ("/stable/../../../etc/passwd", 400),
        ("/stable/x86_64/../../../../etc/passwd", 400),
        ("/stable/%2e%2e/%2e%2e/etc/passwd", 400),
        ("/stable/x86_64/..%2f..%2fetc%2fpasswd", 400),
        ("/stable/x86_64/..%5c..%5cetc", 400),
        ("/stable/x86_64/vmlinuz%00.txt", 400),
        ("/stable/x86_64/%", 400),
        ("/stable/x86_64/%ff%fe", 400),
    ] {
        let answer = provider.get(path);
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        assert!(!answer.fields().contains_key("location"), "{path}");
        if status != 200 {
            assert!(
                !answer.text().contains("root:") && !answer.text().contains("secret\n"),
                "{path}"
            );
        }
    }
    let long = format!("/stable/x86_64/{}", "a".repeat(4_000));
    assert_eq!(provider.get(&long).status, 404);
}

#[test]
fn an_unreadable_file_fails_alone() {
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", b"kernel"),
        ("stable/x86_64/initramfs.img", b"initramfs"),
        ("stable/x86_64/rootfs.squashfs", b""),
    ]);
    let hidden = tree.path("stable/x86_64/initramfs.img");
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o000)).unwrap();
    let mut provider = Provider::start_unprivileged(tree.root());
    provider.wait_for_log("stable/x86_64/initramfs.img: permission denied");
    provider.wait_for_log("stable/x86_64/rootfs.squashfs: is empty");
    let refused = provider.get("/stable/x86_64/initramfs.img");
    assert_eq!(
        (refused.status, refused.text().as_str()),
        (500, "initramfs.img: permission denied\n")
    );
    assert_eq!(provider.get(KERNEL).status, 200);
    let manifest = provider.get("/manifest.json");
    assert_eq!(manifest.status, 200);
    let names: Vec<String> = manifest.json()["artifacts"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect();
    assert_eq!(names, ["kernel"]);
    let health = provider.get("/health");
    assert_eq!(health.status, 503);
    assert_eq!(health.json()["status"], "unhealthy");
    assert_eq!(health.json()["checks"]["artifacts_readable"], false);
    assert!(
        health.text().contains("initramfs.img: permission denied"),
        "{}",
        health.text()
    );
    assert!(
        health.text().contains("rootfs.squashfs: is empty"),
        "{}",
        health.text()
    );
    // Repaired while it runs.
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(tree.path("stable/x86_64/rootfs.squashfs")).unwrap();
    assert_eq!(
        provider.get("/stable/x86_64/initramfs.img").body,
        b"initramfs"
    );
    assert_eq!(provider.get("/health").status, 200);
}

#[test]
fn a_replaced_file_never_shows_another_ones_digest() {
    const ROUNDS_MIN: usize = 150;
    const CONTENTS_MIN: usize = 20;
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", &[0; 4096])]);
    let provider = Provider::start(tree.root(), &[]);
    let done = AtomicBool::new(false);
    let mut contents_seen = std::collections::HashSet::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0_u32;
            while !done.load(Ordering::Relaxed) {
                let content: Vec<u8> = (0..1_024)
                    .flat_map(|at: u32| (at ^ round).to_le_bytes())
                    .collect();
                if round.is_multiple_of(2) {
                    tree.replace("stable/x86_64/vmlinuz", &content);
                } else {
                    // In place, and of the same length.
                    tree.write("stable/x86_64/vmlinuz", &content);
                }
                round += 1;
                std::thread::sleep(std::time::Duration::from_millis(u64::from(round % 3) * 30));
            }
        });
        let mut complete = 0;
        wait_until("enough complete answers", || {
            let mut stream = provider.connect();
            let request = format!("GET {KERNEL} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = Vec::new();
            // An answer that was cut because the file was overwritten may end in a reset.
            let ended = stream.read_to_end(&mut answer);
            let end = answer
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
                .unwrap_or(0);
            let (head, body) = (
                String::from_utf8_lossy(&answer[..end]).into_owned(),
                &answer[(end + 4).min(answer.len())..],
            );
            if head.starts_with("HTTP/1.1 200") && ended.is_ok() && body.len() == 4096 {
                complete += 1;
                contents_seen.insert(Digest::of(body).hex());
                let digest = Digest::of(body);
                assert!(
                    head.contains(&digest.hex()),
                    "a body of digest {digest} under\n{head}"
                );
            } else {
                assert!(
                    body.len() < 4096 || head.starts_with("HTTP/1.1 503"),
                    "{head}"
                );
            }
            (complete >= ROUNDS_MIN && contents_seen.len() >= CONTENTS_MIN).then_some(())
        });
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn many_askers_are_served_by_one_hashing() {
    let content = vec![3; 24 << 20];
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", b"kernel"),
        ("testing/x86_64/vmlinuz", &content),
    ]);
    let provider = Provider::start(tree.root(), &[]);
    // The default folder is hashed ahead, the other one is not.
    let passes = |provider: &Provider| {
        provider.get("/status").json()["metrics"]["files_hashed_total"].as_u64()
    };
    let before = wait_until("the hashing ahead", || {
        let passes = passes(&provider);
        (provider.get("/manifest.json").status == 200 && passes >= Some(1))
            .then_some(passes.unwrap())
    });
    std::thread::scope(|scope| {
        for asker in 0..12 {
            let provider = &provider;
            scope.spawn(move || {
                let path = if asker % 3 == 0 {
                    "/testing/x86_64/manifest.json"
                } else {
                    "/testing/x86_64/vmlinuz"
                };
                assert_eq!(provider.curl(path, &["-I"]).status, 200);
            });
        }
    });
    assert_eq!(passes(&provider), Some(before + 1));
}

#[test]
fn connections_are_kept_pipelined_and_half_closed() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
    let provider = Provider::start(tree.root(), &[]);
    // Two requests in one packet, then the client's sending side is closed.
    let mut stream = provider.connect();
    let request = format!("GET {KERNEL} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.repeat(2).as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut both = String::new();
    stream.read_to_string(&mut both).unwrap();
    assert_eq!(both.matches("HTTP/1.1 200 OK").count(), 2, "{both}");
    assert_eq!(both.matches("kernel").count(), 2, "{both}");
    // The connection stays open between HEAD and GET.
    let mut stream = provider.connect();
    stream
        .write_all(request.replace("GET", "HEAD").as_bytes())
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    stream.write_all(request.as_bytes()).unwrap();
    let mut start = [0; 15];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200 OK");
    let old = provider.raw(format!("GET {KERNEL} HTTP/1.0\r\n\r\n").as_bytes());
    assert!(old.ends_with("\r\n\r\nkernel"), "{old}");
}

#[test]
fn nonsense_is_answered_and_survived() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
    let provider = Provider::start(tree.root(), &[]);
    let too_large = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    for request in [
        &b"\x00\x01\x02\x03\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        too_large.as_bytes(),
    ] {
        let mut stream = provider.connect();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        // The provider may answer and close before it has read everything.
        let _ = stream.write_all(request);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(
            answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 505 "),
            "{request:?}: {answer}"
        );
    }
    assert_eq!(provider.get(KERNEL).body, b"kernel");
}

#[test]
fn bytes_are_counted_when_they_are_sent() {
    let large = vec![5; 64 << 20];
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", &content()),
        ("stable/x86_64/rootfs.img", &large),
    ]);
    let provider = Provider::start(tree.root(), &[]);
    let metrics = || {
        let status = provider.get("/status");
        let metrics = status.json()["metrics"].clone();
        (
            metrics["requests_total"].as_u64().unwrap(),
            metrics["bytes_served_total"].as_u64().unwrap(),
            status.body.len(),
        )
    };
    let (requests, bytes, own_size) = metrics();
    provider.get(KERNEL);
    provider.curl(KERNEL, &["-I"]);
    provider.curl(KERNEL, &["-r", "0-9"]);
    let not_found = provider.get("/nothing").body.len();
    let (requests_now, bytes_now, _) = metrics();
    assert_eq!(requests_now - requests, 5);
    assert_eq!(
        bytes_now - bytes,
        (own_size + 1_000 + 10 + not_found) as u64
    );
    // A client that goes away after the first megabyte has not been served 64.
    let (_, before, _) = metrics();
    let mut stream = provider.connect();
    stream
        .write_all(b"GET /stable/x86_64/rootfs.img HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut megabyte = vec![0; 1 << 20];
    stream.read_exact(&mut megabyte).unwrap();
    drop(stream);
    let sent = wait_until("the connection to be gone", || {
        let status = provider.get("/status").json()["metrics"].clone();
        let alone = status["connections_open"] == 1;
        alone.then(|| status["bytes_served_total"].as_u64().unwrap() - before)
    });
    assert!(sent > 1_000_000 && sent < 32 << 20, "{sent} bytes counted");
}
