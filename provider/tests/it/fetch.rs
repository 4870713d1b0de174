//! `phase-fetch` as people run it: against `plasmd serve`, against web servers of other people, and against bad ones.

use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::desk::image::{Image, noise};
use crate::desk::server::{self, Then, answer, file, partly};
use crate::desk::{Desk, Ended, days_ago, fresh_image, provider};
use crate::provider::Provider;

const MIB: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

/// Writes the image as a provider's artifacts directory.
pub(crate) fn lay_out(image: &Image, root: &Path) {
    let folder = root.join("stable/x86_64");
    fs::create_dir_all(&folder).expect("a directory");
    fs::write(folder.join("manifest.json"), &image.manifest).expect("a file");
    for (_, filename, bytes) in &image.files {
        fs::write(folder.join(filename), bytes).expect("a file");
    }
}

pub(crate) fn check_fetched(image: &Image, folder: &Path) {
    assert_eq!(
        fs::read(folder.join("manifest.json")).unwrap(),
        image.manifest
    );
    for (name, filename, bytes) in &image.files {
        assert!(fs::read(folder.join(filename)).unwrap() == *bytes, "{name}");
    }
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "initramfs.img",
            "manifest.json",
            "rootfs.squashfs",
            "vmlinuz"
        ]
    );
}

#[test]
fn fetches_all_from_plasmd_serve_and_then_finds_it_there() {
    let image = fresh_image();
    let desk = Desk::new(&image);
    lay_out(&image, &desk.path("artifacts"));
    let provider = Provider::start(&desk.path("artifacts"), &["--arch", "x86_64"]);
    let base = provider.url("");
    let first = desk.fetch(&[&base, "-o", "out", "-k", "key.pub"]);
    assert_eq!(first.code, Some(0), "{first:?}");
    check_fetched(&image, &desk.path("out"));
    let key_id = image.key.public().key_id().to_string();
    assert!(
        first
            .out
            .contains(&format!("signed by {key_id} (trusted by key.pub)")),
        "{first:?}"
    );
    assert!(
        !first.err.contains('\r'),
        "a progress line without a terminal: {first:?}"
    );

    let second = desk.fetch(&[
        &provider.url("/manifest.json"),
        "-o",
        "out",
        "--trust-root",
        "trust-root.json",
    ]);
    assert_eq!(second.code, Some(0), "{second:?}");
    assert_eq!(
        second.out.matches("already there, verified").count(),
        3,
        "{second:?}"
    );

    fs::write(desk.path("out/vmlinuz"), b"not a kernel").unwrap();
    let third = desk.fetch(&[
        &base,
        "-o",
        "out",
        "-k",
        "key.pub",
        "--json",
        "--resume",
        "-a",
        "kernel,rootfs",
    ]);
    let json = third.json();
    assert_eq!(json["status"], "ok");
    assert_eq!(json["key_id"], key_id);
    let states: Vec<_> = json["artifacts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (&one["name"], &one["state"]))
        .collect();
    assert_eq!(
        states,
        [
            (&"kernel".into(), &"fetched".into()),
            (&"rootfs".into(), &"already-there".into())
        ]
    );
    check_fetched(&image, &desk.path("out"));

    let quiet = desk.fetch(&[&base, "-o", "quiet", "-k", "key.pub", "-q"]);
    assert_eq!(
        (quiet.code, quiet.out.as_str(), quiet.err.as_str()),
        (Some(0), "", "")
    );
}

/// A server of somebody else, ended with the test.
struct Daemon(Child);

impl Daemon {
    /// Starts it and waits until its port answers. `None`, with the reason for `test`, where it is not installed.
    fn start(test: &str, command: &mut Command, port: u16) -> Option<Self> {
        let started = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        if started
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::NotFound)
        {
            println!(
                "SKIPPED: {test}: there is no {:?} on this machine",
                command.get_program()
            );
            return None;
        }
        let mut daemon = Self(started.expect("a program that is there starts"));
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(daemon.0.try_wait().unwrap().is_none(), "it ended at once");
            assert!(Instant::now() < deadline, "it does not listen");
            std::thread::yield_now();
        }
        Some(daemon)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // nginx ends its workers on SIGTERM only.
        let pid = rustix::process::Pid::from_child(&self.0);
        let _gone = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _gone = self.0.wait();
    }
}

#[test]
fn keys_that_were_replaced_are_followed_and_kept_with_what_was_fetched() {
    let image = fresh_image().rotated(1);
    let desk = Desk::new(&image);
    lay_out(&image, &desk.path("artifacts"));
    let roots = image.roots.as_deref().unwrap();
    let place = desk.path("artifacts/stable/x86_64/roots.json");
    fs::write(&place, roots).unwrap();
    let provider = Provider::start(&desk.path("artifacts"), &["--arch", "x86_64"]);
    let verify = |flags: &[&str]| {
        let output = desk.tool("phase-verify", flags).output();
        Ended::of(&output.expect("it starts"))
    };
    // Below the root of the URLs and below the folder.
    for url in [
        provider.url(""),
        provider.url("/stable/x86_64/manifest.json"),
    ] {
        let fetched = desk.fetch(&[&url, "-o", "out", "-k", "key.pub"]);
        assert_eq!(fetched.code, Some(0), "{fetched:?}");
        assert_eq!(fs::read(desk.path("out/roots.json")).unwrap(), roots);
        let verified = verify(&["out", "-k", "key.pub", "--strict"]);
        assert_eq!(verified.code, Some(0), "{verified:?}");
        fs::remove_file(desk.path("out/roots.json")).unwrap();
        let verified = verify(&["out", "-k", "key.pub"]);
        assert_eq!(verified.code, Some(1), "{verified:?}");
    }
    fs::write(&place, &roots[..roots.len() / 2]).unwrap();
    let refused = desk.fetch(&[&provider.url(""), "-o", "out", "-k", "key.pub"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.err.contains("the root chain cannot be read"),
        "{refused:?}"
    );
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .expect("a free port")
        .local_addr()
        .expect("its address")
        .port()
}

#[test]
fn fetches_from_nginx_and_resumes_there() {
    let image = fresh_image();
    let desk = Desk::new(&image);
    lay_out(&image, &desk.path("www"));
    let port = free_port();
    let root = desk.path("").display().to_string();
    let config = format!(
        "daemon off; master_process off; pid {root}/nginx.pid; error_log /dev/null; events {{}}
         http {{ access_log {root}/access.log; client_body_temp_path {root}/t1; proxy_temp_path {root}/t2;
         fastcgi_temp_path {root}/t3; uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;
         server {{ listen 127.0.0.1:{port}; root {root}/www; }} }}"
    );
    fs::write(desk.path("nginx.conf"), config).unwrap();
    // `cargo appliance test` brings an unpacked one.
    let program = std::env::var_os("PHASE_NGINX").unwrap_or_else(|| "nginx".into());
    let mut nginx = Command::new(program);
    nginx
        .arg("-c")
        .arg(desk.path("nginx.conf"))
        .args(["-e", "/dev/null"]);
    let test = "fetches_from_nginx_and_resumes_there";
    let Some(_nginx) = Daemon::start(test, &mut nginx, port) else {
        return;
    };
    // The first two chunks are there already, as after an interruption.
    fs::create_dir(desk.path("out")).unwrap();
    fs::write(
        desk.path("out/.vmlinuz.partial"),
        &image.content("kernel")[..2 * MIB + 5],
    )
    .unwrap();
    let url = format!("http://127.0.0.1:{port}/stable/x86_64/manifest.json");
    let ended = desk.fetch(&[&url, "-o", "out", "-k", "key.pub", "--json"]);
    let json = ended.json();
    let kernel = &json["artifacts"][1];
    assert_eq!(
        (&kernel["state"], &kernel["bytes_received"]),
        (&"resumed".into(), &(2 * MIB + 17).into()),
        "{json}"
    );
    check_fetched(&image, &desk.path("out"));
}

#[test]
fn fetches_from_a_flat_directory_of_a_server_without_ranges() {
    let image = fresh_image();
    let desk = Desk::new(&image);
    lay_out(&image, &desk.path("www"));
    let port = free_port();
    let mut python = Command::new("python3");
    python.args([
        "-m",
        "http.server",
        "--bind",
        "127.0.0.1",
        &port.to_string(),
        "--directory",
    ]);
    python.arg(desk.path("www/stable/x86_64"));
    let test = "fetches_from_a_flat_directory_of_a_server_without_ranges";
    let Some(_python) = Daemon::start(test, &mut python, port) else {
        return;
    };
    fs::create_dir(desk.path("out")).unwrap();
    fs::write(
        desk.path("out/.vmlinuz.partial"),
        &image.content("kernel")[..2 * MIB + 5],
    )
    .unwrap();
    let url = format!("http://127.0.0.1:{port}/manifest.json");
    let ended = desk.fetch(&[&url, "-o", "out", "-k", "key.pub", "--json"]);
    assert_eq!(
        ended.json()["artifacts"][1]["bytes_fetched"],
        2 * MIB + 17,
        "{ended:?}"
    );
    check_fetched(&image, &desk.path("out"));
}

#[test]
fn a_killed_download_goes_on_where_it_was() {
    let image = Arc::new(Image::of(
        days_ago(0),
        vec![("kernel", "vmlinuz", noise(5, 8 * MIB))],
    ));
    let desk = Desk::new(&image);
    // Three and a half chunks, then silence.
    let stalled = provider(&image, |request, stream, bytes| {
        request.target.ends_with("vmlinuz").then(|| {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
            server::send(stream, head);
            server::send(stream, &bytes[..3 * MIB + MIB / 2]);
            Then::Keep
        })
    });
    let mut child = desk
        .tool(
            "phase-fetch",
            &[&stalled.url(""), "-o", "out", "-k", "key.pub", "-q"],
        )
        .spawn()
        .unwrap();
    let partial = desk.path("out/.vmlinuz.partial");
    let deadline = Instant::now() + PATIENCE;
    // Chunks are hashed side by side, so a later one may be written first.
    let content = image.content("kernel");
    while !fs::read(&partial).is_ok_and(|kept| kept.starts_with(&content[..3 * MIB])) {
        assert!(Instant::now() < deadline, "the chunks do not arrive");
        assert!(!desk.path("out/vmlinuz").exists());
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!desk.path("out/vmlinuz").exists() && !desk.path("out/manifest.json").exists());
    let good = provider(&image, |_, _, _| None);
    let ended = desk.fetch(&[&good.url(""), "-o", "out", "-k", "key.pub", "--json"]);
    let kernel = &ended.json()["artifacts"][0];
    assert_eq!(
        (&kernel["state"], &kernel["bytes_received"]),
        (&"resumed".into(), &(5 * MIB).into()),
        "{ended:?}"
    );
    let last = 8 * MIB as u64 - 1;
    assert_eq!(
        good.ranges("/stable/x86_64/vmlinuz"),
        [Some((3 * MIB as u64, last))]
    );
    assert!(fs::read(desk.path("out/vmlinuz")).unwrap() == image.content("kernel"));
}

#[test]
fn every_failure_has_its_code_and_its_exit_status() {
    type Special = fn(&server::Request, &mut TcpStream, &[u8]) -> Option<Then>;
    let cases: [(&str, &str, Special); 5] = [
        (
            "bad-hash",
            "chunk 1, bytes 1048576-2097151: expected sha256:",
            |request, stream, bytes| {
                request.target.ends_with("vmlinuz").then(|| {
                    let mut bytes = bytes.to_vec();
                    bytes[MIB + 1] ^= 4;
                    file(request, stream, &bytes)
                })
            },
        ),
        (
            "cut-short",
            "goes on where it stopped",
            |request, stream, bytes| {
                request
                    .target
                    .ends_with("vmlinuz")
                    .then(|| partly(request, stream, bytes, 100))
            },
        ),
        ("too-large", "4194321 are expected", |request, stream, _| {
            request.target.ends_with("vmlinuz").then(|| {
                server::send(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
                );
                Then::Keep
            })
        }),
        (
            "not-found",
            "vmlinuz: not found (404 Not Found)",
            |request, stream, _| {
                request
                    .target
                    .ends_with("vmlinuz")
                    .then(|| answer(stream, "404 Not Found", "", b""))
            },
        ),
        (
            "bad-signature",
            "invalid signature on manifest",
            |request, stream, bytes| {
                request.target.ends_with("manifest.json").then(|| {
                    let text = String::from_utf8_lossy(bytes);
                    // The last signature of the file is the one that counts; its base64 stays valid.
                    let at = text.rfind("\"sig\": \"").expect("a signature") + 10;
                    let mut bytes = bytes.to_vec();
                    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
                    file(request, stream, &bytes)
                })
            },
        ),
    ];
    let image = Arc::new(fresh_image());
    let desk = Desk::new(&image);
    for (code, text, special) in cases {
        let server = provider(&image, special);
        let ended = desk.fetch(&[
            &server.url(""),
            "-o",
            code,
            "-k",
            "key.pub",
            "--json",
            "-r",
            "0",
            "-a",
            "kernel",
        ]);
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert_eq!(ended.json()["code"], code, "{ended:?}");
        assert!(ended.err.contains(text), "{text:?} is missing: {ended:?}");
        assert!(!desk.path(code).join("vmlinuz").exists(), "{code}");
        assert!(!desk.path(code).join("manifest.json").exists(), "{code}");
    }
}

#[test]
fn what_cannot_be_done_here_is_said_in_one_line() {
    let image = fresh_image();
    let desk = Desk::new(&image);
    fs::write(desk.path("m.json"), &image.manifest).unwrap();
    fs::write(desk.path("afile"), b"").unwrap();
    for (flags, code, text) in [
        (&["-k", "key.pub"][..], 2, "no provider was named"),
        (
            &["ftp://127.0.0.1/", "-k", "key.pub"],
            2,
            "not a URL that starts with http:// or https://",
        ),
        (
            &[
                "https://127.0.0.1:1/",
                "-k",
                "key.pub",
                "--cacert",
                "key.pub",
            ],
            3,
            "key.pub: has no certificate (PEM)",
        ),
        (
            &["http://127.0.0.1:1/", "-k", "key.pub", "--cacert", "c.pem"],
            2,
            "no provider is named by an https URL",
        ),
        (
            &[
                "http://127.0.0.1:1/",
                "-k",
                "key.pub",
                "--limit-rate",
                "fast",
            ],
            2,
            "bytes per second are expected, such as 500K or 10M",
        ),
        (
            &["m.json", "-k", "key.pub"],
            2,
            "hint: a manifest file is used with: -m m.json --provider",
        ),
        (
            &["-m", "m.json", "-k", "key.pub"],
            2,
            "hint: phase-fetch -m m.json --provider http://HOST:8080",
        ),
        (
            &["http://127.0.0.1:1/", "-k", "key.pub", "-r", "0"],
            1,
            "127.0.0.1:1: Connection refused",
        ),
        (
            &["http://127.0.0.1:1/", "-k", "absent.pub"],
            3,
            "absent.pub: the key cannot be read",
        ),
        (
            &["http://127.0.0.1:1/", "-k", "trust-root.json"],
            1,
            "hint: this is a trust root: use --trust-root",
        ),
        (
            &["http://127.0.0.1:1/", "--trust-root", "key.pub"],
            1,
            "hint: this is a single public key: use -k",
        ),
        (
            &[
                "-m",
                "m.json",
                "--provider",
                "http://127.0.0.1:1",
                "-k",
                "key.pub",
                "-a",
                "dtb",
            ],
            1,
            "no artifact dtb (it has: initramfs, kernel, rootfs)",
        ),
        (
            &[
                "-m",
                "m.json",
                "--provider",
                "http://127.0.0.1:1",
                "-k",
                "key.pub",
                "-o",
                "afile",
            ],
            3,
            "afile: cannot be made",
        ),
    ] {
        let ended = desk.fetch(flags);
        assert_eq!(ended.code, Some(code), "{flags:?}: {ended:?}");
        assert!(
            ended.err.contains(text),
            "{flags:?}: {text:?} is missing: {ended:?}"
        );
    }
}

#[test]
fn an_expired_manifest_needs_a_word() {
    let image = Arc::new(Image::of(days_ago(31), Image::new().files));
    let desk = Desk::new(&image);
    let server = provider(&image, |_, _, _| None);
    let url = server.url("");
    let refused = desk.fetch(&[&url, "-o", "out", "-k", "key.pub", "--json"]);
    assert_eq!(
        (refused.code, refused.json()["code"].as_str()),
        (Some(1), Some("expired"))
    );
    assert!(
        refused.err.contains("the manifest expired at ") && refused.err.contains("the clock says "),
        "{refused:?}"
    );
    assert!(
        !desk.path("out").exists(),
        "something was made for a manifest that was refused"
    );
    let accepted = desk.fetch(&[&url, "-o", "out", "-k", "key.pub", "--allow-expired"]);
    assert_eq!(accepted.code, Some(0), "{accepted:?}");
    assert!(
        accepted.err.contains("--allow-expired"),
        "it was not logged: {accepted:?}"
    );
    check_fetched(&image, &desk.path("out"));

    // The word is about old manifests, not about those of the future.
    let future = Arc::new(Image::of(days_ago(-3), Image::new().files));
    let desk = Desk::new(&future);
    let server = provider(&future, |_, _, _| None);
    let url = server.url("");
    let flags = [
        &url,
        "-o",
        "out",
        "-k",
        "key.pub",
        "--allow-expired",
        "--json",
    ];
    let refused = desk.fetch(&flags);
    assert_eq!(
        (refused.code, refused.json()["code"].as_str()),
        (Some(1), Some("not-yet-valid"))
    );
}

#[test]
fn a_manifest_file_is_verified_like_any_other() {
    let image = Arc::new(fresh_image());
    let desk = Desk::new(&image);
    let server = provider(&image, |_, _, _| None);
    fs::write(desk.path("m.json"), &image.manifest).unwrap();
    let provider = server.url("");
    let flags = [
        "-m",
        "m.json",
        "--provider",
        &provider,
        "-o",
        "out",
        "-k",
        "key.pub",
    ];
    let ended = desk.fetch(&flags);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    check_fetched(&image, &desk.path("out"));
    let text = String::from_utf8(image.manifest.clone()).unwrap();
    let changed = text.replacen("\"manifest_version\": 7", "\"manifest_version\": 8", 1);
    assert_ne!(changed, text);
    fs::write(desk.path("m.json"), changed).unwrap();
    let ended = desk.fetch(&flags);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended
            .err
            .contains("the readable part of the manifest was changed"),
        "{ended:?}"
    );
}
