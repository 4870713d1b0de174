//! What firmware needs of an HTTP server, each by the number of the finding about firmware that asks for it.
//!
//! C34 sizes, C35 types, C36 no redirects, C37 lengths and names as firmware looks for them, C38 connections that stay,
//! C40 downloads that go on.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use crate::provider::{Provider, Tree, wait_until};

const EFI: &str = "/stable/x86_64/phase.efi";

/// Sends a request and reads one answer: its head, and its body unless it is one to HEAD.
fn ask(stream: &mut TcpStream, method: &str, path: &str, fields: &str) -> (String, Vec<u8>) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: 192.0.2.1:8080\r\nAccept: */*\r\nUser-Agent: UefiHttpBoot/1.0\r\n{fields}\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = value(&head, "Content-Length").parse().unwrap();
    let mut body = vec![0; if method == "HEAD" { 0 } else { length }];
    stream.read_exact(&mut body).unwrap();
    (head, body)
}

/// The value of a field whose name is compared letter by letter, as some firmware does.
fn value<'a>(head: &'a str, name: &str) -> &'a str {
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let mut found = fields.filter(|(found, _)| *found == name);
    found
        .next()
        .unwrap_or_else(|| panic!("no {name} in {head}"))
        .1
}

fn provider(content: &[u8]) -> (Tree, Provider) {
    let tree = Tree::new(&[
        ("stable/x86_64/vmlinuz", b"kernel"),
        ("stable/x86_64/phase.efi", content),
        ("stable/x86_64/BOOTX64.EFI", content),
        ("stable/x86_64/phase.iso", content),
        ("stable/x86_64/phase.img", content),
    ]);
    let provider = Provider::start(tree.root(), &[]);
    (tree, provider)
}

#[test]
fn c34_and_c38_head_tells_the_true_size_and_the_same_connection_gets_the_file() {
    let content = vec![7; 300_000];
    let (_tree, provider) = provider(&content);
    let mut stream = provider.connect();
    let (head, _) = ask(&mut stream, "HEAD", EFI, "");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(value(&head, "Content-Length"), "300000");
    assert!(!head.contains("Connection: close"), "{head}");
    let (_, body) = ask(&mut stream, "GET", EFI, "");
    assert!(body == content);
    // And one more, with the sending side closed behind it.
    let request = format!("GET {EFI} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(&content));
}

#[test]
fn c35_types_are_exactly_what_firmware_compares_with() {
    let (_tree, provider) = provider(b"MZ");
    let mut stream = provider.connect();
    for (path, expected) in [
        (EFI, "application/efi"),
        ("/stable/x86_64/BOOTX64.EFI", "application/efi"),
        ("/stable/x86_64/phase.iso", "application/vnd.efi-iso"),
        ("/stable/x86_64/phase.img", "application/vnd.efi-img"),
        ("/stable/x86_64/phase.efi?arch=x64", "application/efi"),
    ] {
        for method in ["HEAD", "GET"] {
            let (head, _) = ask(&mut stream, method, path, "");
            assert_eq!(value(&head, "Content-Type"), expected, "{method} {path}");
        }
    }
}

#[test]
fn c36_nothing_is_ever_elsewhere() {
    let (_tree, provider) = provider(b"MZ");
    let mut stream = provider.connect();
    for (path, status) in [
        ("//stable/x86_64/phase.efi", "200"),
        ("///stable//x86_64///phase.efi", "200"),
        ("/stable/x86_64", "404"),
        ("/stable/x86_64/", "404"),
        ("/stable", "404"),
        ("/stable/x86_64/phase.efi/", "404"),
        ("/Stable/x86_64/phase.efi", "404"),
    ] {
        let (head, _) = ask(&mut stream, "GET", path, "");
        assert_eq!(head.split(' ').nth(1), Some(status), "{path}: {head}");
        assert!(!head.contains("Location"), "{path}: {head}");
    }
}

#[test]
fn c37_every_answer_has_its_length_and_names_in_title_case() {
    let (_tree, provider) = provider(b"MZ");
    let mut stream = provider.connect();
    for (method, path, fields) in [
        ("GET", EFI, ""),
        ("HEAD", EFI, ""),
        ("GET", EFI, "Range: bytes=0-0\r\n"),
        ("GET", EFI, "Range: bytes=9-\r\n"),
        ("GET", EFI, "If-Match: \"x\"\r\n"),
        ("GET", "/nothing", ""),
        ("GET", "/manifest.json", ""),
        ("GET", "/health", ""),
        ("GET", "/", ""),
        ("POST", EFI, ""),
        ("OPTIONS", EFI, ""),
    ] {
        let (head, _) = ask(&mut stream, method, path, fields);
        for line in head.lines().skip(1).filter(|line| !line.is_empty()) {
            let (name, _) = line.split_once(": ").unwrap();
            for word in name.split('-') {
                let first = word.chars().next().unwrap();
                assert!(first.is_ascii_uppercase(), "{method} {path}: {line}");
            }
        }
        assert!(!head.contains("Transfer-Encoding"), "{head}");
        // Present exactly once; the reader above has used it.
        assert_eq!(head.matches("Content-Length: ").count(), 1, "{head}");
    }
}

#[test]
fn c40_a_download_goes_on_while_the_file_is_the_same() {
    let content: Vec<u8> = (0..100_000_u32).map(|at| (at % 251) as u8).collect();
    let (tree, provider) = provider(&content);
    let mut stream = provider.connect();
    let (head, _) = ask(&mut stream, "HEAD", EFI, "");
    assert_eq!(value(&head, "Accept-Ranges"), "bytes");
    let (etag, modified) = (value(&head, "Etag"), value(&head, "Last-Modified"));
    assert!(etag.starts_with('"') && etag.len() == 66, "{etag}");
    for condition in [
        format!("If-Match: {etag}\r\n"),
        format!("If-Unmodified-Since: {modified}\r\n"),
    ] {
        let fields = format!("Range: bytes=60000-\r\n{condition}");
        let (head, body) = ask(&mut stream, "GET", EFI, &fields);
        assert!(head.starts_with("HTTP/1.1 206 "), "{head}");
        assert_eq!(value(&head, "Content-Range"), "bytes 60000-99999/100000");
        assert!(body == content[60_000..]);
    }
    tree.replace("stable/x86_64/phase.efi", &content[1..]);
    let fields = format!("Range: bytes=60000-\r\nIf-Match: {etag}\r\n");
    // Until the provider is told of the change, it sends the rest of the old one: never of the new one.
    wait_until("the change to be noticed", || {
        let (head, body) = ask(&mut stream, "GET", EFI, &fields);
        assert!(head.starts_with("HTTP/1.1 412 ") || body == content[60_000..]);
        head.starts_with("HTTP/1.1 412 ").then_some(())
    });
}
