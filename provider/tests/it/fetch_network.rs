//! `phase-fetch` over TLS, through proxies, and from several providers.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use boot_manifest::Digest;

use crate::desk::image::{Image, noise};
use crate::desk::server::{Server, Then, answer, file};
use crate::desk::{Desk, days_ago, fresh_image, provider};
use crate::provider::{Provider, plasmd};
use crate::tls_front::{Proxy, TlsFront};

const MIB: usize = 1 << 20;

#[test]
fn tls_is_believed_by_authority_or_by_pin_and_not_otherwise() {
    let image = Arc::new(fresh_image());
    let desk = Desk::new(&image);
    let server = provider(&image, |_, _, _| None);
    let tls = TlsFront::start(&server.url(""), &["127.0.0.1"]);
    fs::write(desk.path("ca.pem"), &tls.authority).unwrap();
    let url = tls.url();
    let key = Digest::of(&tls.key_info).to_string();
    let certificate = Digest::of(&tls.certificate).to_string();
    for (index, flags) in [
        ["--cacert", "ca.pem"],
        ["--pin", &key],
        ["--pin", &certificate],
    ]
    .iter()
    .enumerate()
    {
        let out = format!("out{index}");
        let mut all = vec![&url[..], "-o", &out, "-k", "key.pub", "-q", "-r", "0"];
        all.extend(flags);
        let ended = desk.fetch(&all);
        assert_eq!(ended.code, Some(0), "{flags:?}: {ended:?}");
        let kernel = fs::read(desk.path(&out).join("vmlinuz")).unwrap();
        assert!(kernel == image.content("kernel"));
    }
    let before = server.requests().len();
    let other = TlsFront::start(&server.url(""), &["127.0.0.1"]);
    fs::write(desk.path("other.pem"), &other.authority).unwrap();
    let wrong = Digest::of(b"another key").to_string();
    for (flags, text) in [
        (["--cacert", "other.pem"], "TLS: invalid peer certificate"),
        (
            ["--pin", &wrong],
            "TLS: the server has another certificate than the pinned one: its key is sha256:",
        ),
    ] {
        let mut all = vec![&url[..], "-o", "none", "-k", "key.pub", "--json"];
        all.extend(flags);
        let ended = desk.fetch(&all);
        assert_eq!(ended.code, Some(1), "{flags:?}: {ended:?}");
        assert_eq!(ended.json()["code"], "bad-certificate", "{ended:?}");
        assert!(ended.err.contains(text), "{text:?}: {ended:?}");
        assert!(
            ended.err.contains("hint: --cacert FILE trusts"),
            "{ended:?}"
        );
    }
    // Names count with an authority.
    let named = TlsFront::start(&server.url(""), &["example.net"]);
    fs::write(desk.path("named.pem"), &named.authority).unwrap();
    let url = named.url();
    let flags = [&url, "-k", "key.pub", "--json", "--cacert", "named.pem"];
    assert_eq!(desk.fetch(&flags).json()["code"], "bad-certificate");
    assert_eq!(server.requests().len(), before, "it was asked all the same");
}

#[test]
fn the_certificate_of_plasmd_is_believed_by_what_it_shows() {
    let image = fresh_image();
    let desk = Desk::new(&image);
    lay_out(&image, &desk.path("artifacts"));
    let state = desk.path("state").display().to_string();
    let flags = ["--arch", "x86_64", "--tls-port", "0", "--state-dir", &state];
    let mut provider = Provider::start(&desk.path("artifacts"), &flags);
    let line = provider.wait_for_log("url=\"https://");
    let port = line
        .rsplit_once(':')
        .and_then(|(_, end)| end.split('/').next())
        .unwrap();
    let url = format!("https://127.0.0.1:{port}");
    let shown: serde_json::Value =
        serde_json::from_slice(&plasmd(&["tls", "--json", "--state-dir", &state]).stdout).unwrap();
    let text = |name: &str| shown[name].as_str().unwrap().to_owned();
    let authority = format!("{state}/tls-v1/authority.pem");
    for flags in [
        ["--pin", &text("pin")],
        ["--pin", &text("fingerprint")],
        ["--cacert", &authority],
    ] {
        let mut all = vec![&url[..], "-o", "out", "-k", "key.pub", "-q", "-r", "0"];
        all.extend(flags);
        let ended = desk.fetch(&all);
        assert_eq!(ended.code, Some(0), "{flags:?}: {ended:?}");
        let kernel = fs::read(desk.path("out/vmlinuz")).unwrap();
        assert!(kernel == image.content("kernel"));
        fs::remove_dir_all(desk.path("out")).unwrap();
    }
    // The system's authorities do not know it.
    let ended = desk.fetch(&[&url, "-k", "key.pub", "-r", "0"]);
    assert_ne!(ended.code, Some(0), "{ended:?}");
}

#[test]
fn tls_to_a_server_that_does_not_speak_it_says_so() {
    let image = Arc::new(fresh_image());
    let desk = Desk::new(&image);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
        // What the client still says is taken, so that it is not told by a reset.
        let _gone = stream.read_to_end(&mut Vec::new());
    });
    let pin = Digest::of(b"a key").to_string();
    let ended = desk.fetch(&[&url, "-k", "key.pub", "--pin", &pin, "--json"]);
    answering.join().unwrap();
    assert_eq!(ended.json()["code"], "bad-certificate", "{ended:?}");
    assert!(
        ended.err.contains("this is not TLS; is it an http server?"),
        "{ended:?}"
    );
}

#[test]
fn a_redirect_never_leads_away_from_tls() {
    let image = Arc::new(fresh_image());
    let desk = Desk::new(&image);
    let plain = provider(&image, |_, _, _| None);
    let elsewhere = plain.url("/manifest.json");
    let redirecting = Server::start(move |_, stream| {
        let line = format!("Location: {elsewhere}\r\n");
        answer(stream, "302 Found", &line, b"")
    });
    let tls = TlsFront::start(&redirecting.url(""), &["127.0.0.1"]);
    fs::write(desk.path("ca.pem"), &tls.authority).unwrap();
    let url = tls.url();
    let ended = desk.fetch(&[&url, "-k", "key.pub", "--cacert", "ca.pem", "--json"]);
    assert_eq!(ended.json()["code"], "refused-status", "{ended:?}");
    assert!(
        ended.err.contains("which is not protected by TLS"),
        "{ended:?}"
    );
    assert!(plain.requests().is_empty());
}

#[test]
fn proxies_of_the_environment_are_used() {
    let image = Arc::new(fresh_image());
    let desk = Desk::new(&image);
    // What a proxy asks for is the whole URL.
    let theirs = Arc::clone(&image);
    let server = Server::start(move |request, stream| {
        let target = request.target.replace("http://provider.example:8080", "");
        match theirs.at(&target) {
            Some(bytes) => file(request, stream, bytes),
            None => answer(stream, "404 Not Found", "", b""),
        }
    });
    let proxy = Proxy::start(&server.url(""), None);
    let address = format!("http://me:secret@{}", proxy.address);
    let fetch = |url: &str, flags: &[&str], environment: &[(&str, &str)]| {
        let mut all = vec![
            url, "-o", "out", "-k", "key.pub", "-q", "-r", "0", "-a", "kernel",
        ];
        all.extend(flags);
        let mut command = desk.tool("phase-fetch", &all);
        command.envs(environment.iter().copied());
        crate::desk::Ended::of(&command.output().unwrap())
    };
    // The name is known to nobody but the proxy.
    let ended = fetch(
        "http://provider.example:8080",
        &[],
        &[("http_proxy", &address)],
    );
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let heads = proxy.heads();
    let head = heads.first().unwrap();
    assert!(
        head.starts_with("GET http://provider.example:8080/manifest.json HTTP/1.1\r\n"),
        "{head}"
    );
    let head = head.to_ascii_lowercase();
    assert!(head.contains("host: provider.example:8080\r\n"), "{head}");
    assert!(
        head.contains("proxy-authorization: basic bwu6c2vjcmv0\r\n"),
        "{head}"
    );

    // https goes through a tunnel, in which the proxy sees nothing.
    let tls = TlsFront::start(&server.url(""), &["provider.example"]);
    fs::write(desk.path("ca.pem"), &tls.authority).unwrap();
    let tunnel = Proxy::start(&tls.url(), None);
    let through = format!("http://{}", tunnel.address);
    let https = "https://provider.example:8443";
    fs::remove_dir_all(desk.path("out")).unwrap();
    let ended = fetch(https, &["--cacert", "ca.pem"], &[("HTTPS_PROXY", &through)]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let heads = tunnel.heads();
    assert_eq!(heads.len(), 1, "{heads:?}");
    assert!(heads[0].starts_with("CONNECT provider.example:8443 HTTP/1.1\r\n"));
    assert!(!heads[0].contains("manifest"), "{heads:?}");

    // Exceptions are obeyed, a refusal is told, and an unknown kind of proxy is not just left out.
    let direct = server.url("");
    let dead = [
        ("http_proxy", "http://127.0.0.1:1"),
        ("no_proxy", "127.0.0.1"),
    ];
    assert_eq!(fetch(&direct, &[], &dead).code, Some(0));
    let ended = fetch(&direct, &[], &dead[..1]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.err.contains("127.0.0.1:1: Connection refused"),
        "{ended:?}"
    );
    let refusing = Proxy::start(&server.url(""), Some("HTTP/1.1 403 Forbidden\r\n\r\n"));
    let refusing_url = format!("http://{}", refusing.address);
    let ended = fetch(
        https,
        &["--cacert", "ca.pem"],
        &[("https_proxy", &refusing_url)],
    );
    assert!(
        ended
            .err
            .contains("refused a tunnel to provider.example:8443: HTTP/1.1 403"),
        "{ended:?}"
    );
    let ended = fetch(&direct, &[], &[("http_proxy", "socks5://127.0.0.1:1")]);
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(
        ended.err.contains("only http proxies are supported"),
        "{ended:?}"
    );
}

/// Writes the image as a provider's artifacts directory.
fn lay_out(image: &Image, root: &Path) {
    let folder = root.join("stable/x86_64");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("manifest.json"), &image.manifest).unwrap();
    for (_, filename, bytes) in &image.files {
        fs::write(folder.join(filename), bytes).unwrap();
    }
}

#[test]
fn several_providers_share_the_work_and_the_bad_ones_are_named() {
    let kernel = noise(4, 32 * MIB);
    let image = Image::of(days_ago(0), vec![("kernel", "vmlinuz", kernel.clone())]);
    let image = Arc::new(image);
    let desk = Desk::new(&image);
    lay_out(&image, &desk.path("good"));
    // One provider has a kernel of the same length that somebody changed everywhere.
    let changed: Vec<u8> = kernel.iter().map(|byte| !byte).collect();
    let liar = provider(&image, move |request, stream, _| {
        let asked = request.target.ends_with("vmlinuz");
        asked.then(|| file(request, stream, &changed))
    });
    let flags = ["--arch", "x86_64"];
    let (a, b) = (
        Provider::start(&desk.path("good"), &flags),
        Provider::start(&desk.path("good"), &flags),
    );
    let unsigned = Server::start(|_, stream| answer(stream, "200 OK", "", b"{}"));
    let (unsigned, a, b, liar) = (unsigned.url(""), a.url(""), b.url(""), liar.url(""));
    let ended = desk.fetch(&[
        &unsigned,
        &a,
        &liar,
        "--url",
        &b,
        "-o",
        "out",
        "-k",
        "key.pub",
        "--json",
        "--limit-rate",
        "64M",
    ]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(fs::read(desk.path("out/vmlinuz")).unwrap() == kernel);
    // The one whose manifest did not verify is not even asked for the file.
    assert!(
        ended.err.contains("provider dropped") && ended.err.contains(&unsigned),
        "{ended:?}"
    );
    let json = ended.json();
    let sources = json["artifacts"][0]["sources"].as_array().unwrap();
    let of = |url: &str| {
        let named = |one: &&serde_json::Value| one["url"].as_str().unwrap().starts_with(url);
        sources.iter().find(named).unwrap()
    };
    assert_eq!(sources.len(), 3, "{json:#}");
    for good in [&a, &b] {
        let kept = of(good)["bytes_kept"].as_u64().unwrap();
        assert!(kept >= 4 << 20, "{json:#}");
        assert!(of(good)["dropped"].is_null(), "{json:#}");
    }
    assert_eq!(of(&liar)["bytes_kept"], 0, "{json:#}");
    assert_eq!(of(&liar)["dropped"]["code"], "bad-hash", "{json:#}");
}

#[test]
fn when_every_provider_fails_each_is_told() {
    let image = Arc::new(fresh_image());
    let desk = Desk::new(&image);
    let empty = Server::start(|_, stream| answer(stream, "404 Not Found", "", b""));
    let broken = Server::start(|_, _| Then::Close);
    let (first, second) = (empty.url(""), broken.url(""));
    let ended = desk.fetch(&[&first, &second, "-k", "key.pub", "--json", "-r", "0"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let json = ended.json();
    assert_eq!(json["code"], "all-failed");
    let codes: Vec<_> = json["sources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["code"].as_str().unwrap())
        .collect();
    assert_eq!(codes, ["not-found", "cut-short"], "{json:#}");
    for part in [&first, &second] {
        assert!(ended.err.contains(part.as_str()), "{ended:?}");
    }
}
