//! HTTPS beside HTTP, asked by curl, wget and openssl; certificates that change; clients that do not shake hands.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::provider::{PATIENCE, Provider, Tree, plasmd, wait_until};

/// A provider that speaks both, and its HTTPS port.
fn start(tree: &Tree, flags: &[&str]) -> (Provider, u16) {
    let mut provider = Provider::start(tree.root(), &[&["--tls-port", "0"], flags].concat());
    let line = provider.wait_for_log("url=\"https://");
    let port = line
        .rsplit_once(':')
        .and_then(|(_, end)| end.split('/').next()?.parse().ok())
        .unwrap();
    (provider, port)
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What `plasmd tls` says of a certificate.
fn shown(flags: &[&str]) -> Value {
    let output = plasmd(&[&["tls", "--json"], flags].concat());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_certificate_is_made_once_and_believed_by_those_who_trust_its_authority() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let flags = ["--state-dir", text(&state)];
    let (provider, port) = start(&tree, &flags);
    let authority = state.join("tls-v1/authority.pem");
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("https://{host}:{port}/stable/x86_64/vmlinuz");
        let curl = run("curl", &["-sS", "--cacert", text(&authority), &url]);
        assert_eq!(curl.stdout, b"kernel", "{curl:?}");
        let wget = format!("--ca-certificate={}", text(&authority));
        let wget = run("wget", &["-qO-", &wget, &url]);
        assert_eq!(wget.stdout, b"kernel", "{wget:?}");
        let nobody = run("curl", &["-sS", &url]);
        assert_eq!(nobody.status.code(), Some(60), "nobody trusts it by itself");
    }
    let seen = shown(&flags);
    assert_eq!(provider.get("/status").json()["tls"], seen);
    let status = plasmd(&["provider", "status", "--addr", &provider.url("")]);
    let status = String::from_utf8(status.stdout).unwrap();
    for line in [
        format!("tls pin    {}", seen["pin"].as_str().unwrap()),
        format!("listens    https://127.0.0.1:{port}/"),
        format!("process    {} of user ", provider.pid()),
    ] {
        assert!(status.contains(&line), "{status}");
    }
    let url = format!("https://localhost:{port}/");
    let pin = seen["pin_curl"].as_str().unwrap();
    let pinned = run("curl", &["-ksS", "--pinnedpubkey", pin, &url]);
    assert!(pinned.status.success(), "{pinned:?}");
    let other = format!("sha256//{}=", "A".repeat(43));
    let wrong = run("curl", &["-ksS", "--pinnedpubkey", &other, &url]);
    assert_eq!(wrong.status.code(), Some(90), "{wrong:?}");
    let pem = plasmd(&["tls", "--pem", "--state-dir", text(&state)]);
    assert_eq!(pem.stdout, fs::read(&authority).unwrap());
    drop(provider);
    let (again, _) = start(&tree, &flags);
    assert_eq!(again.get("/status").json()["tls"], seen);
}

#[test]
fn a_provider_is_asked_over_https_by_those_who_believe_it() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
    let state = tempfile::tempdir().unwrap();
    let (_provider, port) = start(&tree, &["--state-dir", text(state.path())]);
    let url = format!("https://127.0.0.1:{port}");
    let authority = state.path().join("tls-v1/authority.pem");
    let pin = shown(&["--state-dir", text(state.path())])["pin"].clone();
    let (pin, other) = (pin.as_str().unwrap(), format!("sha256:{}", "0".repeat(64)));
    for (flags, code, said) in [
        (&["--cacert", text(&authority)][..], 0, "provider   plasmd"),
        (&["--pin", pin], 0, "provider   plasmd"),
        (&["--pin", &other], 1, "another certificate than the pinned"),
        (&[], 1, "https://127.0.0.1"),
        (&["--cacert", "/nowhere"], 1, "/nowhere: "),
    ] {
        let output = plasmd(&[&["provider", "status", "--addr", &url], flags].concat());
        let both = [output.stdout, output.stderr].concat();
        let both = String::from_utf8_lossy(&both);
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {both}");
        assert!(both.contains(said), "{flags:?}: {both}");
    }
    let plain = plasmd(&["provider", "status", "--pin", pin]);
    assert_eq!(plain.status.code(), Some(2));
}

#[test]
fn versions_protocols_and_names() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
    let state = tempfile::tempdir().unwrap();
    let (_provider, port) = start(&tree, &["--state-dir", text(state.path())]);
    let authority = state.path().join("tls-v1/authority.pem");
    let address = format!("127.0.0.1:{port}");
    let connect = |flags: &[&str]| {
        let common = [
            "s_client",
            "-connect",
            &address,
            "-CAfile",
            text(&authority),
            "-verify_return_error",
        ];
        let output = run("openssl", &[&common, flags].concat());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), said)
    };
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let (is_ok, said) = connect(&[version, "-alpn", "h2,http/1.1", "-verify_ip", "127.0.0.1"]);
        assert!(is_ok && said.contains(name), "{said}");
        assert!(said.contains("ALPN protocol: http/1.1"), "{said}");
        assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    }
    assert!(!connect(&["-tls1_1"]).0);
    assert!(!connect(&["-verify_ip", "192.0.2.77"]).0);
    assert!(!connect(&["-alpn", "h2"]).0, "only HTTP/1.1 is spoken");
}

/// Makes a certificate and its key as an operator would.
fn make(folder: &Path, name: &str, algorithm: &str) {
    let (key, certificate) = (folder.join(format!("{name}.key")), folder.join(name));
    let output = run(
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            algorithm,
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=x",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-keyout",
            text(&key),
            "-out",
            text(&certificate),
        ],
    );
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_certificate_of_ones_own_is_renewed_and_a_bad_one_is_not_taken() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in ["first", "second"] {
        make(folder.path(), name, "rsa:2048");
    }
    let put = |certificate: &str, key: &str| {
        for (from, to) in [(certificate, "cert.pem"), (key, "key.pem")] {
            fs::copy(path(from), path("new")).unwrap();
            fs::rename(path("new"), path(to)).unwrap();
        }
    };
    put("first", "first.key");
    let (certificate, key) = (path("cert.pem"), path("key.pem"));
    let flags = ["--tls-cert", text(&certificate), "--tls-key", text(&key)];
    let (mut provider, port) = start(&tree, &flags);
    let is_served = |name: &str| {
        let url = format!("https://localhost:{port}/");
        let seen = run("curl", &["-sS", "--cacert", text(&path(name)), &url]);
        seen.status.success()
    };
    assert!(is_served("first") && !is_served("second"));
    // A connection that is open stays as it is.
    let mut open = Command::new("openssl")
        .args([
            "s_client",
            "-quiet",
            "-connect",
            &format!("127.0.0.1:{port}"),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut asking = open.stdin.take().unwrap();
    let mut answers = open.stdout.take().unwrap();
    asking
        .write_all(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    answers.read_exact(&mut [0; 15]).unwrap();

    put("second", "second.key");
    provider.signal(Signal::HUP);
    assert!(provider.wait_for_log(" reloaded ").contains("certificate"));
    assert!(is_served("second") && !is_served("first"));
    assert_eq!(
        provider.get("/status").json()["tls"],
        shown(&["--cert", text(&certificate)])
    );
    // It is good for two days, by openssl's reckoning as well.
    let end = run(
        "openssl",
        &[
            "x509",
            "-noout",
            "-dateopt",
            "iso_8601",
            "-enddate",
            "-in",
            text(&certificate),
        ],
    );
    let end = String::from_utf8_lossy(&end.stdout).replace("notAfter=", "");
    let end = end.trim().replace(' ', "T");
    let note = format!("the certificate of HTTPS expires at {end}");
    let notes = provider.get("/health").json()["notes"].clone();
    assert!(
        notes.as_array().unwrap().contains(&note.clone().into()),
        "no {note} in {notes}"
    );
    let metrics = provider.get("/metrics").text();
    assert!(metrics.contains("\nplasmd_certificate_expiry_timestamp_seconds "));
    for (certificate, key) in [
        ("second", "first.key"),
        ("first.key", "first"),
        ("none", "x"),
    ] {
        fs::write(path("none"), "no PEM").unwrap();
        fs::write(path("x"), "").unwrap();
        put(certificate, key);
        provider.forget_log();
        provider.signal(Signal::HUP);
        provider.wait_for_log("not reloaded");
        provider.wait_for_log(" reloaded ");
        assert!(is_served("second"), "{certificate} {key}");
    }
    asking
        .write_all(b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut rest = String::new();
    answers.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("200 OK"), "the second answer: {rest}");
    open.wait().unwrap();
    let metrics = provider.get("/metrics").text();
    assert!(
        metrics.contains("plasmd_reload_failures_total 3"),
        "{metrics}"
    );
}

#[test]
fn clients_that_do_not_shake_hands() {
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", b"kernel")]);
    let state = tempfile::tempdir().unwrap();
    let (provider, port) = start(&tree, &["--state-dir", text(state.path())]);
    let connect = || {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let say = |bytes: &[u8]| {
        let mut stream = connect();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // It may also be reset.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let hint = say(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    // The client has to close before the provider believes that it read the answer.
    assert!(hint.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{hint}");
    assert!(hint.ends_with("use https:// in the URL.\n"), "{hint}");
    assert_eq!(say(&[0; 64]), "");
    assert_eq!(say(b"\xff\xfe garbage"), "");
    // A record that is no handshake ends with an alert.
    let alert = say(b"\x16\x03\x01\x00\x04\x63\x00\x00\x00");
    assert_eq!(alert.as_bytes().first(), Some(&0x15), "{alert:?}");
    // Half handshakes: as many as one address may have wait, one more is sent away at once, HTTP goes on.
    let refused = || -> u64 {
        let metrics = provider.get("/metrics").text();
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("plasmd_refusals_total{reason=\"tls\"} "));
        line.unwrap().parse().unwrap()
    };
    let before = refused();
    assert!(before >= 4, "{before}");
    let held: Vec<TcpStream> = (0..65)
        .map(|_| {
            let mut stream = connect();
            stream.write_all(b"\x16\x03\x01\x02\x00").unwrap();
            stream
        })
        .collect();
    wait_until("one of them to be refused", || {
        (refused() == before + 1).then_some(())
    });
    assert_eq!(provider.get("/stable/x86_64/vmlinuz").body, b"kernel");
    drop(held);
    let authority = state.path().join("tls-v1/authority.pem");
    let url = format!("https://127.0.0.1:{port}/stable/x86_64/vmlinuz");
    wait_until("a place for one more handshake", || {
        let curl = run("curl", &["-sS", "--cacert", text(&authority), &url]);
        (curl.stdout == b"kernel").then_some(())
    });
}

#[test]
fn what_is_wrong_with_a_certificate_is_said_at_the_start() {
    let (served, tree) = (Tree::new(&[]), Tree::new(&[("none", b"no PEM")]));
    for name in ["first", "second"] {
        make(tree.root(), name, "rsa:2048");
    }
    let path = |name: &str| text(&tree.path(name)).to_owned();
    let check = |flags: &[&str], code: i32, said: &[&str]| {
        let artifacts = text(served.root());
        let common = ["serve", "-b", "127.0.0.1", "-p", "0", "-a", artifacts];
        let output = plasmd(&[&common, flags].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {error}");
        for part in said {
            assert!(error.contains(part), "{flags:?}: no {part:?} in {error}");
        }
    };
    let own = |certificate: &str, key: &str, said: &[&str]| {
        let (certificate, key) = (path(certificate), path(key));
        check(&["--tls-cert", &certificate, "--tls-key", &key], 3, said);
    };
    own(
        "none",
        "first.key",
        &["none: holds no certificate", "hint: "],
    );
    own("first", "none", &["none: holds no private key"]);
    own(
        "first",
        "second.key",
        &["first: ", "hint: --tls-cert takes"],
    );
    own("first", "gone", &["gone: ", "No such file"]);
    check(&["--tls-cert", &path("first")], 2, &["--tls-key"]);
    check(
        &["--tls-port", "0", "--state-dir", "/proc/none"],
        3,
        &["/proc/none", "hint: --state-dir"],
    );
    check(
        &["--user", "nobody-of-that-name"],
        3,
        &["no user", "hint: "],
    );
}
