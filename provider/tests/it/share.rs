//! `phase-fetch --share`: several that fetch the same at once, from a provider that is slow, and that goes away.

use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use boot_manifest::Digest;
use serde_json::Value;

use crate::desk::image::{Image, noise};
use crate::desk::{Desk, Ended, days_ago};
use crate::fetch::lay_out;
use crate::provider::{Answer, Provider, curl, wait_until};

const MIB: usize = 1 << 20;

/// Twelve chunks in two files.
fn image() -> Image {
    let files = vec![
        ("initramfs", "initramfs.img", noise(4, 3 * MIB + 5)),
        ("kernel", "vmlinuz", noise(5, 8 * MIB)),
    ];
    Image::of(days_ago(0), files)
}

/// A port below those that the kernel gives to connections, which no other test beside this one takes either.
fn own_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(24_000);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A client that shares at a port of its own.
struct Sharer {
    child: Child,
    port: u16,
}

impl Sharer {
    fn start(desk: &Desk, provider: &str, out: &str, more: &[&str]) -> Self {
        let port = own_port();
        let listen = format!("127.0.0.1:{port}");
        let flags = [
            provider, "-o", out, "-k", "key.pub", "--json", "--share", &listen,
        ];
        let child = desk
            .tool("phase-fetch", &[&flags, more].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, port }
    }

    /// Its answer, while it listens.
    fn get(&self, path: &str, flags: &[&str]) -> Option<Answer> {
        curl(&format!("http://127.0.0.1:{}{path}", self.port), flags).ok()
    }

    /// How many chunks of the kernel it has, once it answers.
    fn kernel_chunks(&self) -> Option<u32> {
        let answer = self.get("/have", &[])?;
        let map: Value = serde_json::from_slice(&answer.body).ok()?;
        let kernel = map["artifacts"].as_array()?.last()?;
        let digits = kernel["have"].as_str()?;
        let ones = |digit: char| digit.to_digit(16).map_or(0, u32::count_ones);
        Some(digits.chars().map(ones).sum())
    }

    fn end(self) -> Ended {
        Ended::of(&self.child.wait_with_output().unwrap())
    }
}

fn check(image: &Image, desk: &Desk, out: &str, ended: &Ended) {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for (_, filename, bytes) in &image.files {
        let path = desk.path(out).join(filename);
        assert!(std::fs::read(path).unwrap() == *bytes, "{out}/{filename}");
    }
}

#[test]
fn a_client_gives_what_it_has_before_it_is_complete() {
    let image = image();
    let desk = Desk::new(&image);
    lay_out(&image, &desk.path("artifacts"));
    let flags = ["--arch", "x86_64", "--limit-rate", "2M"];
    let provider = Provider::start(&desk.path("artifacts"), &flags);
    let sharer = Sharer::start(&desk, &provider.url(""), "out", &[]);
    wait_until("a chunk of the kernel", || {
        sharer.kernel_chunks().filter(|count| *count > 0)
    });
    let manifest = sharer.get("/stable/x86_64/manifest.json", &[]).unwrap();
    assert!(manifest.body == image.manifest);
    // Some ranges are there and some are not; what is there is right.
    let kernel = &image.files[1].2;
    let mut answers = Vec::new();
    for chunk in 0..8 {
        let (start, end) = (chunk * MIB, (chunk + 1) * MIB);
        let range = format!("{start}-{}", end - 1);
        let flags = ["-r", &range];
        let answer = sharer.get("/stable/x86_64/vmlinuz", &flags).unwrap();
        if answer.status == 206 {
            assert!(answer.body == kernel[start..end], "{range}");
        } else {
            assert_eq!(answer.field("retry-after"), "1", "{}", answer.text());
        }
        answers.push(answer.status);
    }
    assert!(answers.contains(&206), "{answers:?}");
    // The provider knows it, and tells others.
    let digest = Digest::of(&image.manifest);
    let peers = provider.get(&format!("/peers?manifest={digest}")).json();
    let address = format!("127.0.0.1:{}", sharer.port);
    assert_eq!(peers["peers"][0]["address"], address, "{peers}");
    let ended = sharer.end();
    check(&image, &desk, "out", &ended);
    let shared = &ended.json()["shared"];
    assert!(shared["bytes"].as_u64() >= Some(MIB as u64), "{ended:?}");
}

#[test]
fn the_provider_goes_and_everybody_still_finishes() {
    let image = image();
    let desk = Desk::new(&image);
    lay_out(&image, &desk.path("artifacts"));
    let flags = ["--arch", "x86_64", "--limit-rate", "6M"];
    let provider = Provider::start(&desk.path("artifacts"), &flags);
    let first = Sharer::start(&desk, &provider.url(""), "first", &[]);
    // The others need longer, so that they miss something when the provider goes.
    let slow = ["--limit-rate", "4M"];
    let others = ["second", "third"].map(|out| {
        let sharer = Sharer::start(&desk, &provider.url(""), out, &slow);
        (out, sharer)
    });
    wait_until("all of the image at the first one", || {
        let mut files = image.files.iter();
        files
            .all(|(_, filename, _)| desk.path("first").join(filename).exists())
            .then_some(())
    });
    drop(provider);
    for (out, sharer) in others {
        check(&image, &desk, out, &sharer.end());
    }
    let ended = first.end();
    check(&image, &desk, "first", &ended);
    assert!(
        ended.json()["shared"]["bytes"].as_u64() > Some(0),
        "{ended:?}"
    );
}
