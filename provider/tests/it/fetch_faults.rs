//! `phase-fetch` on a machine that fails it: no room, nothing writable, no descriptors, killed at any moment.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::desk::image::{Image, noise};
use crate::desk::server::{self, Server, Then};
use crate::desk::{Desk, Ended, days_ago, fresh_image, provider};

const MIB: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a shell command of the desk with mounts of its own. `None`, with the reason, where that is not allowed.
fn in_own_mounts(test: &str, desk: &Desk, script: &str) -> Option<Ended> {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.arg("-m");
        command
    };
    let allowed = unshare().arg("true").stderr(Stdio::null()).status();
    if !allowed.is_ok_and(|status| status.success()) {
        println!("SKIPPED: {test}: this user may not mount anything");
        return None;
    }
    let output = unshare()
        .args(["sh", "-c", script])
        .current_dir(desk.path(""))
        .env_remove("RUST_LOG")
        .output()
        .expect("it starts");
    Some(Ended::of(&output))
}

/// Runs a shell script in the folder of `desk`.
fn in_shell(desk: &Desk, script: &str) -> Ended {
    let output = Command::new("sh")
        .args(["-c", script])
        .current_dir(desk.path(""))
        .output()
        .unwrap();
    Ended::of(&output)
}

#[test]
fn a_full_disk_is_said_and_nothing_is_half_visible() {
    let image = Arc::new(fresh_image());
    let desk = Desk::new(&image);
    let server = provider(&image, |_, _, _| None);
    // The initramfs (1,000 bytes) has room, the kernel (4 MiB) has not.
    let script = format!(
        "mkdir out && mount -t tmpfs -o size=2m none out &&
         ./phase-fetch {} -o out -k key.pub -q; code=$?; ls -A out; exit $code",
        server.url("")
    );
    let test = "a_full_disk_is_said_and_nothing_is_half_visible";
    let Some(ended) = in_own_mounts(test, &desk, &script) else {
        return;
    };
    assert_eq!(ended.code, Some(3), "{ended:?}");
    let error = "error: out/.vmlinuz.partial: no space left (4194321 bytes are needed)\n";
    assert_eq!(ended.err, error);
    assert_eq!(ended.out, ".initramfs.img.partial\n");
    let asked = server.requests().len();
    assert_eq!(asked, 1, "more than the manifest, for what cannot be kept");
}

#[test]
fn a_read_only_target_is_said() {
    let image = Arc::new(fresh_image());
    let desk = Desk::new(&image);
    let server = provider(&image, |_, _, _| None);
    for (folder, text) in [
        ("out", "out/.initramfs.img.partial: "),
        ("out/new", "out/new: cannot be made: "),
    ] {
        let script = format!(
            "mkdir -p out && mount -t tmpfs -o ro none out && ./phase-fetch {} -o {folder} -k key.pub -q",
            server.url("")
        );
        let Some(ended) = in_own_mounts("a_read_only_target_is_said", &desk, &script) else {
            return;
        };
        assert_eq!(ended.code, Some(3), "{ended:?}");
        assert!(
            ended.err.starts_with(&format!("error: {text}"))
                && ended.err.contains("Read-only file system"),
            "{ended:?}"
        );
        assert_eq!(ended.err.lines().count(), 1, "{ended:?}");
    }
}

#[test]
fn a_write_that_fails_on_the_way_ends_it() {
    let image = Arc::new(fresh_image());
    let desk = Desk::new(&image);
    let server = provider(&image, |_, _, _| None);
    let script = format!(
        "trap '' XFSZ; ulimit -f 4; exec ./phase-fetch {} -o out -k key.pub -q",
        server.url("")
    );
    let ended = in_shell(&desk, &script);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    let error = "error: out/.vmlinuz.partial: File too large (os error 27)\n";
    assert_eq!(ended.err, error);
    assert!(!desk.path("out/manifest.json").exists() && !desk.path("out/vmlinuz").exists());
}

#[test]
fn running_out_of_descriptors_is_one_line_with_what_to_do() {
    let image = Arc::new(fresh_image());
    let desk = Desk::new(&image);
    let server = provider(&image, |_, _, _| None);
    let mut reasons = Vec::new();
    for limit in 4..16 {
        let script = format!(
            "ulimit -n {limit}; exec ./phase-fetch {} -o out{limit} -k key.pub -r 0 -q",
            server.url("")
        );
        let ended = in_shell(&desk, &script);
        let folder = desk.path(&format!("out{limit}"));
        if ended.code == Some(0) {
            assert!(fs::read(folder.join("vmlinuz")).unwrap() == image.content("kernel"));
            continue;
        }
        assert_eq!(ended.code, Some(3), "ulimit -n {limit}: {ended:?}");
        assert!(!folder.join("manifest.json").exists());
        assert!(
            ended.err.starts_with("error: ") && ended.err.lines().count() <= 2,
            "ulimit -n {limit}: {ended:?}"
        );
        reasons.push(ended.err);
    }
    assert!(
        reasons.iter().any(
            |text| text.contains("may not open more files or connections")
                && text.contains("hint: raise the limit: ulimit -n")
        ),
        "{reasons:?}"
    );
}

/// A server that sends so much of the kernel and is then silent; with `None` it does not even answer.
fn stalling(image: &Arc<Image>, after: Option<usize>) -> Server {
    provider(image, move |request, stream, bytes| {
        request.target.ends_with("vmlinuz").then(|| {
            if let Some(after) = after {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
                server::send(stream, head);
                server::send(stream, &bytes[..after]);
            }
            Then::Keep
        })
    })
}

#[test]
fn a_kill_at_any_step_costs_only_the_chunks_under_way() {
    let image = Arc::new(Image::of(
        days_ago(0),
        vec![("kernel", "vmlinuz", noise(5, 8 * MIB))],
    ));
    let content = image.content("kernel");
    let steps = [
        None,
        Some(0),
        Some(MIB - 1),
        Some(MIB),
        Some(5 * MIB + 77),
        Some(8 * MIB - 1),
    ];
    for after in steps {
        let desk = Desk::new(&image);
        let stalled = stalling(&image, after);
        let url = stalled.url("");
        let mut child = desk
            .tool("phase-fetch", &[&url, "-o", "out", "-k", "key.pub", "-q"])
            .spawn()
            .unwrap();
        let partial = desk.path("out/.vmlinuz.partial");
        let whole = after.unwrap_or(0) / MIB * MIB;
        let deadline = Instant::now() + PATIENCE;
        while stalled.ranges("/stable/x86_64/vmlinuz").is_empty()
            || !fs::read(&partial).is_ok_and(|kept| kept.starts_with(&content[..whole]))
        {
            assert!(Instant::now() < deadline, "{after:?}: it does not come");
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let names: Vec<_> = fs::read_dir(desk.path("out"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, [".vmlinuz.partial"], "{after:?}");

        let good = provider(&image, |_, _, _| None);
        let base = good.url("");
        let flags = [&base, "-o", "out", "-k", "key.pub", "--resume", "--json"];
        let ended = desk.fetch(&flags);
        assert_eq!(ended.code, Some(0), "{after:?}: {ended:?}");
        let asked = good.ranges("/stable/x86_64/vmlinuz");
        let rest = (whole as u64, 8 * MIB as u64 - 1);
        let expected = if whole == 0 { None } else { Some(rest) };
        assert_eq!(asked, [expected], "{after:?}: bytes asked of the server");
        let received = &ended.json()["artifacts"][0]["bytes_received"];
        assert_eq!(*received, 8 * MIB - whole, "{after:?}: {ended:?}");
        assert!(fs::read(desk.path("out/vmlinuz")).unwrap() == content);
    }
}

#[test]
fn a_kill_between_the_last_byte_and_the_name_costs_nothing() {
    let image = Arc::new(fresh_image());
    let desk = Desk::new(&image);
    // Every chunk of the kernel is there and it has no name yet; the rootfs has its name; there is no manifest yet.
    fs::create_dir(desk.path("out")).unwrap();
    for (name, artifact) in [
        (".vmlinuz.partial", "kernel"),
        ("rootfs.squashfs", "rootfs"),
    ] {
        fs::write(desk.path("out").join(name), image.content(artifact)).unwrap();
    }
    let server = provider(&image, |_, _, _| None);
    let url = server.url("");
    let ended = desk.fetch(&[&url, "-o", "out", "-k", "key.pub", "--json"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let asked: Vec<String> = server
        .requests()
        .into_iter()
        .map(|request| request.target)
        .filter(|target| !target.starts_with("/peers?"))
        .collect();
    assert_eq!(asked, ["/manifest.json", "/stable/x86_64/initramfs.img"]);
    assert!(fs::read(desk.path("out/vmlinuz")).unwrap() == image.content("kernel"));
    assert!(desk.path("out/manifest.json").exists());
}

#[test]
fn a_kill_before_the_manifest_is_there_leaves_nothing() {
    let image = Arc::new(fresh_image());
    let desk = Desk::new(&image);
    let silent = Server::start(|_, _| Then::Keep);
    let url = silent.url("");
    let mut child = desk
        .tool("phase-fetch", &[&url, "-o", "out", "-k", "key.pub", "-q"])
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while silent.requests().is_empty() {
        assert!(Instant::now() < deadline, "it asks for nothing");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!desk.path("out").exists());
}

#[test]
fn resume_wants_something_to_resume() {
    let image = Arc::new(fresh_image());
    let desk = Desk::new(&image);
    let server = provider(&image, |_, _, _| None);
    let url = server.url("");
    let flags = [&url, "-o", "elsewhere", "-k", "key.pub", "--resume"];
    let ended = desk.fetch(&flags);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(
        ended
            .err
            .contains("error: elsewhere: there is nothing to resume\nhint: is -o the directory"),
        "{ended:?}"
    );
    assert!(!desk.path("elsewhere").exists());
}

#[test]
fn two_at_once_do_not_write_the_same_file() {
    let image = Arc::new(fresh_image());
    let desk = Desk::new(&image);
    let stalled = stalling(&image, Some(10));
    let url = stalled.url("");
    let flags = [&url, "-o", "out", "-k", "key.pub", "-q", "-a", "kernel"];
    let mut first = desk.tool("phase-fetch", &flags).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while stalled.ranges("/stable/x86_64/vmlinuz").is_empty() {
        assert!(Instant::now() < deadline, "it asks for nothing");
        std::thread::yield_now();
    }
    let second = desk.fetch(&flags);
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(second.code, Some(3), "{second:?}");
    assert!(
        second
            .err
            .contains("another process is writing this artifact"),
        "{second:?}"
    );
}
