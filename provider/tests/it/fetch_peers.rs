//! `phase-fetch` among others of its kind: with `--share` they give each other what they have.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::desk::image::{Image, noise};
use crate::desk::{Desk, Ended, days_ago, fresh_image, provider};
use crate::fetch::{check_fetched, lay_out};
use crate::provider::Provider;

const MIB: usize = 1 << 20;

/// An image with many chunks.
fn image_of(mib: usize) -> Image {
    Image::of(
        days_ago(0),
        vec![
            ("initramfs", "initramfs.img", noise(2, 1_000)),
            ("kernel", "vmlinuz", noise(1, MIB + 17)),
            ("rootfs", "rootfs.squashfs", noise(3, mib * MIB)),
        ],
    )
}

fn start(desk: &Desk, url: &str, out: &str, flags: &[&str]) -> Child {
    let mut tool = desk.tool("phase-fetch", &[url, "-o", out, "-k", "key.pub", "--json"]);
    tool.args(flags)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    tool.spawn().expect("it starts")
}

/// A number of each artifact, summed up.
fn sum(ended: &Ended, member: &str) -> u64 {
    let json = ended.json();
    let artifacts = json["artifacts"].as_array().expect("a list").iter();
    artifacts
        .map(|one| one[member].as_u64().expect("a number"))
        .sum()
}

#[test]
fn clients_that_share_take_from_each_other() {
    let image = image_of(8);
    let desk = Desk::new(&image);
    lay_out(&image, &desk.path("artifacts"));
    let flags = ["--arch", "x86_64", "--limit-rate", "3M"];
    let provider = Provider::start(&desk.path("artifacts"), &flags);
    let outs = ["a", "b", "c"];
    let share = ["--share", "127.0.0.1:0"];
    let clients = outs.map(|out| start(&desk, &provider.url(""), out, &share));
    let ended = clients.map(|client| Ended::of(&client.wait_with_output().expect("it ends")));
    let (mut taken, mut given) = (0, 0);
    for (out, ended) in outs.iter().zip(&ended) {
        assert_eq!(ended.code, Some(0), "{ended:?}");
        check_fetched(&image, &desk.path(out));
        taken += sum(ended, "bytes_from_peers");
        given += ended.json()["shared"]["bytes"].as_u64().expect("a number");
    }
    let size: usize = image.files.iter().map(|(_, _, bytes)| bytes.len()).sum();
    println!("of 3 times {size}: {taken} from peers, {given} given");
    assert!(taken >= size as u64 / 2, "{taken} of 3 times {size}");
    // What was asked for twice, or broken off, is given and not kept.
    assert!(given >= taken, "{given} were given, {taken} taken");
}

/// What a machine answers to a GET, as soon as it answers at all.
fn get(at: SocketAddr, target: &str) -> Vec<u8> {
    let limit = Instant::now() + Duration::from_secs(60);
    let mut stream = loop {
        match TcpStream::connect(at) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < limit, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

#[test]
fn what_was_complete_before_is_given_too() {
    let image = image_of(2);
    let desk = Desk::new(&image);
    lay_out(&image, &desk.path("artifacts"));
    // Slow, so that there is time to ask.
    let flags = ["--arch", "x86_64", "--limit-rate", "500K"];
    let provider = Provider::start(&desk.path("artifacts"), &flags);
    let (_, name, bytes) = &image.files[2];
    fs::create_dir(desk.path("out")).unwrap();
    fs::write(desk.path("out").join(name), bytes).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = free.local_addr().unwrap();
    drop(free);
    let flags = ["--share", &place.to_string()];
    let client = start(&desk, &provider.url(""), "out", &flags);
    // Whoever asks for this is waited for.
    let map = String::from_utf8(get(place, "/have")).unwrap();
    assert!(map.contains("HTTP/1.1 200"), "{map}");
    let answer = get(place, &format!("/stable/x86_64/{name}"));
    assert!(answer.starts_with(b"HTTP/1.1 200"), "it is not given");
    assert!(answer.ends_with(bytes));
    let ended = Ended::of(&client.wait_with_output().expect("it ends"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    check_fetched(&image, &desk.path("out"));
}

#[test]
fn who_asks_for_no_peers_asks_for_none() {
    let image = Arc::new(fresh_image());
    let desk = Desk::new(&image);
    let server = provider(&image, |_, _, _| None);
    let about_peers = || {
        let requests = server.requests().into_iter();
        let peers = requests.filter(|one| one.target.starts_with("/peers"));
        peers.map(|one| one.head).collect::<Vec<String>>()
    };
    let alone = desk.fetch(&[&server.url(""), "-o", "out", "-k", "key.pub", "--no-peers"]);
    assert_eq!(alone.code, Some(0), "{alone:?}");
    assert_eq!(about_peers(), [] as [String; 0]);
    // Without the flag others are asked for, and nobody is told of a client that serves nothing.
    let normal = desk.fetch(&[&server.url(""), "-o", "other", "-k", "key.pub", "--json"]);
    assert_eq!(normal.code, Some(0), "{normal:?}");
    assert!(normal.json().get("shared").is_none(), "{normal:?}");
    let [question] = &about_peers()[..] else {
        panic!("{:?}", about_peers());
    };
    assert!(
        question.starts_with("get /peers?manifest=sha256:"),
        "{question}"
    );
    assert!(!question.contains("port="), "{question}");
}

#[test]
fn a_port_that_cannot_be_had_is_said_before_anything_is_fetched() {
    let image = Arc::new(fresh_image());
    let desk = Desk::new(&image);
    let server = provider(&image, |_, _, _| None);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = taken.local_addr().unwrap().to_string();
    let url = server.url("");
    let fetch =
        |flags: &[&str]| desk.fetch(&[&[&url, "-o", "out", "-k", "key.pub", "-q"], flags].concat());
    let ended = fetch(&["--share", &place]);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    let error = format!("error: {place}: nothing can be shared there: Address already in use");
    assert!(ended.err.starts_with(&error), "{ended:?}");
    assert!(server.ranges("/stable/x86_64/vmlinuz").is_empty());
    assert_eq!(fetch(&["--share", "here"]).code, Some(2));
    assert_eq!(fetch(&["--share", "0", "--no-peers"]).code, Some(2));
}
