//! What an operator asks a running provider, and how it is told things.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::provider::{PLASMD, Provider, Tree, plasmd, wait_until};
use crate::serve::asking::Asking;

fn tree() -> Tree {
    Tree::new(&[
        ("stable/x86_64/vmlinuz", &[1; 5_000]),
        ("stable/x86_64/initramfs.img", &[2; 3_000]),
    ])
}

/// The value of a series.
fn metric(page: &str, series: &str) -> f64 {
    let line = page.lines().find(|line| {
        line.strip_prefix(series)
            .is_some_and(|rest| rest.starts_with(' '))
    });
    let line = line.unwrap_or_else(|| panic!("no {series} in\n{page}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn metrics_are_read_by_a_parser_of_prometheus() {
    let tree = tree();
    let provider = Provider::start(tree.root(), &["--arch", "x86_64"]);
    provider.get("/stable/x86_64/vmlinuz");
    provider.curl("/stable/x86_64/vmlinuz", &["-r", "0-99"]);
    provider.curl("/stable/x86_64/vmlinuz", &["-I"]);
    provider.curl("/stable/x86_64/vmlinuz", &["-r", "9000-"]);
    provider.get("/none");
    provider.curl("/", &["-X", "PUT"]);
    let page = wait_until("six answers", || {
        let page = provider.get("/metrics").text();
        let counted = metric(&page, "plasmd_request_duration_seconds_count");
        (counted >= 6.0).then_some(page)
    });
    for (series, value) in [
        ("plasmd_requests_total{method=\"GET\",status=\"206\"}", 1.0),
        ("plasmd_requests_total{method=\"HEAD\",status=\"200\"}", 1.0),
        ("plasmd_requests_total{method=\"GET\",status=\"416\"}", 1.0),
        (
            "plasmd_requests_total{method=\"other\",status=\"405\"}",
            1.0,
        ),
        ("plasmd_refusals_total{reason=\"range\"}", 1.0),
        ("plasmd_refusals_total{reason=\"not-found\"}", 1.0),
        ("plasmd_refusals_total{reason=\"method\"}", 1.0),
        (
            "plasmd_artifact_downloads_total{channel=\"stable\",arch=\"x86_64\",file=\"vmlinuz\"}",
            1.0,
        ),
        (
            "plasmd_artifact_sent_bytes_total{channel=\"stable\",arch=\"x86_64\",file=\"vmlinuz\"}",
            5_100.0,
        ),
        ("plasmd_health_check_ok{check=\"listener_ok\"}", 1.0),
        ("plasmd_build_info{version=\"0.1.0\"}", 1.0),
    ] {
        assert_eq!(metric(&page, series), value, "{series} in\n{page}");
    }
    assert!(metric(&page, "plasmd_sent_bytes_total") >= 5_100.0);
    assert!(metric(&page, "process_resident_memory_bytes") > 1e6);
    assert!(metric(&page, "process_open_fds") > 3.0);
    // The parser of the Python client is stricter than Prometheus itself about names and types.
    let script = "import sys\nfrom prometheus_client.parser import text_string_to_metric_families as parse\n\
                  print(sum(len(family.samples) for family in parse(sys.stdin.read())))\n";
    let file = tree.path("page");
    fs::write(&file, &page).unwrap();
    // Debian's own, which finds Debian's modules.
    let output = Command::new("/usr/bin/python3")
        .args(["-c", script])
        .stdin(fs::File::open(file).unwrap())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    if error.contains("No module named 'prometheus_client'") {
        eprintln!("SKIPPED: the Debian package python3-prometheus-client is not installed");
        return;
    }
    assert!(output.status.success(), "{error}");
    let samples: usize = String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .unwrap();
    let lines = page.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(samples, lines);
}

#[test]
fn metrics_and_status_stay_small_whatever_is_asked() {
    let tree = tree();
    let provider = Provider::start(tree.root(), &["--arch", "x86_64"]);
    let lines = |provider: &Provider| provider.get("/metrics").text().lines().count();
    let before = lines(&provider);
    let mut stream = provider.connect();
    for number in 0..600 {
        let request = format!(
            "{} /stable/x86_64/none{number} HTTP/1.1\r\nHost: x\r\nUser-Agent: {number}\r\n\r\n",
            if number % 2 == 0 { "GET" } else { "HEAD" }
        );
        stream.write_all(request.as_bytes()).unwrap();
    }
    let last = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(last).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(lines(&provider), before);
    let status = provider.get("/status");
    assert!(status.body.len() < 10_000, "{}", status.text());
}

#[test]
fn why_a_machine_failed_can_be_seen() {
    let tree = tree();
    tree.write("stable/x86_64/rootfs.squashfs", &vec![3; 64 << 20]);
    let provider = Provider::start(tree.root(), &["--arch", "x86_64"]);
    provider.curl("/stable/x86_64/vmlinuz", &["-A", "iPXE/1.21.1"]);
    provider.get("/stable/x86_64/none.img");
    // A machine that is switched off in the middle.
    let mut stream = provider.connect();
    stream
        .write_all(b"GET /stable/x86_64/rootfs.squashfs HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    // With the head, which is not counted.
    stream.read_exact(&mut [0; 101_000]).unwrap();
    drop(stream);
    let story = |status: &Value| -> Vec<String> {
        let fetches = status["clients"][0]["fetches"].as_array();
        fetches
            .into_iter()
            .flatten()
            .map(|fetch| format!("{} {}", fetch["path"], fetch["ending"]))
            .collect()
    };
    let expected = "\"/stable/x86_64/rootfs.squashfs\" \"broken\"";
    let status = wait_until("the broken download", || {
        let status = provider.get("/status").json();
        story(&status)
            .contains(&expected.to_owned())
            .then_some(status)
    });
    let client = &status["clients"][0];
    assert_eq!(client["address"], "127.0.0.1");
    let fetches = client["fetches"].as_array().unwrap();
    let refused = fetches.iter().find(|one| one["status"] == 404).unwrap();
    assert_eq!(refused["reason"], "not-found");
    let broken = fetches
        .iter()
        .find(|one| one["ending"] == "broken")
        .unwrap();
    let (sent, promised) = (broken["bytes"].as_u64(), broken["bytes_promised"].as_u64());
    assert!(sent >= Some(100_000) && sent < promised, "{broken}");
    assert_eq!(promised, Some(64 << 20));
    let artifacts = status["artifacts"].as_array().unwrap();
    let kernel = artifacts
        .iter()
        .find(|one| one["artifact"] == "kernel")
        .unwrap();
    assert_eq!(
        (
            kernel["downloads_total"].as_u64(),
            kernel["size_bytes"].as_u64()
        ),
        (Some(1), Some(5_000))
    );
    assert_eq!(status["metrics"]["refusals"]["not-found"], 1);
    let shown = plasmd(&["provider", "status", "--addr", &provider.url("")]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    for part in [
        "client     127.0.0.1",
        "none.img: REFUSED with 404: not-found (request ",
        "BROKEN OFF after ",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

#[test]
fn clients_can_be_hidden_from_others() {
    let tree = tree();
    let provider = Provider::start(tree.root(), &["--arch", "x86_64", "--hide-clients"]);
    // This machine still sees them.
    assert!(provider.get("/status").json()["clients"].is_array());
}

#[test]
fn the_access_log_has_a_line_for_each_answer() {
    let tree = tree();
    let logs = tempfile::tempdir().unwrap();
    let log = logs.path().join("access.log");
    let flags = [
        "--arch",
        "x86_64",
        "--access-log",
        log.to_str().unwrap(),
        "--access-log-format",
        "json",
    ];
    let mut provider = Provider::start(tree.root(), &flags);
    provider.get("/stable/x86_64/vmlinuz");
    provider.curl(
        "/stable/x86_64/vmlinuz",
        &["-r", "0-9", "-H", "X-Request-Id: boot-42"],
    );
    provider.curl("/none?x=1", &["-A", "\"quoted\" \\"]);
    // No request at all, by the rules.
    let refused = provider.raw(b"GET /\x1b[2J HTTP/1.1\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
    let lines = wait_until("four lines", || {
        let text = fs::read_to_string(&log).unwrap();
        let lines: Vec<Value> = text
            .lines()
            // The last one may be half written.
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        (lines.len() == 4).then_some(lines)
    });
    let column =
        |name: &str| -> Vec<Value> { lines.iter().map(|line| line[name].clone()).collect() };
    assert_eq!(column("status"), [200, 206, 404, 400]);
    assert_eq!(lines[3]["target"], "/?[2J");
    assert!(lines[3]["bytes"].as_u64().unwrap() > 0);
    assert_eq!(lines[0]["bytes"], 5_000);
    assert_eq!(lines[1]["bytes"], 10);
    assert_eq!(lines[1]["id"], "boot-42");
    assert_eq!(lines[2]["target"], "/none?x=1");
    assert_eq!(lines[2]["refused"], "not-found");
    assert_eq!(lines[2]["agent"], "\"quoted\" \\");
    assert!(column("complete").iter().all(|complete| complete == true));
    provider.signal(rustix::process::Signal::TERM);
    assert!(provider.wait().success());

    let nowhere = logs.path().join("none/access.log");
    let output = plasmd(&[
        "serve",
        "--port",
        "0",
        "--artifacts",
        tree.root().to_str().unwrap(),
        "--access-log",
        nowhere.to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("access log"));
}

#[test]
fn a_log_that_nobody_reads_holds_nothing_up() {
    let tree = tree();
    let mut command = Command::new(PLASMD);
    command
        .args(["serve", "--no-mdns", "--bind", "127.0.0.1", "--port", "0"])
        .args(["--access-log", "-", "--artifacts"])
        .arg(tree.root())
        .stdout(Stdio::piped());
    let mut provider = Provider::spawn(&mut command);
    let mut asking = Asking::new(&provider);
    // More than a pipe holds.
    let path = format!("/?{}", "x".repeat(1_000));
    for _ in 0..100 {
        assert_eq!(asking.get(&path).status, 200);
    }
    provider.signal(rustix::process::Signal::HUP);
    provider.wait_for_log(" reloaded ");
    assert_eq!(asking.get("/").status, 200);
    provider.signal(rustix::process::Signal::TERM);
    assert!(provider.wait().success());
}

#[test]
fn refusals_have_ids_and_so_have_answers_that_were_asked_for_them() {
    let tree = tree();
    let provider = Provider::start(tree.root(), &["--arch", "x86_64"]);
    let id = |path: &str, flags: &[&str]| {
        provider
            .curl(path, flags)
            .fields()
            .get("x-request-id")
            .cloned()
    };
    assert_eq!(id("/stable/x86_64/vmlinuz", &[]), None);
    let asked = ["-H", "X-Request-Id: 3b1f8b1e-6f0c"];
    assert_eq!(
        id("/stable/x86_64/vmlinuz", &asked).as_deref(),
        Some("3b1f8b1e-6f0c")
    );
    assert_eq!(id("/none", &asked).as_deref(), Some("3b1f8b1e-6f0c"));
    let made = id("/none", &["-H", "X-Request-Id: a b;c"]).unwrap();
    assert!(made.len() > 8 && !made.contains(' '), "{made}");
    assert_ne!(id("/none", &[]).unwrap(), made);
}

#[test]
fn a_provider_is_controlled_by_its_own_user_and_nobody_else() {
    let tree = tree();
    let socket = tree.path("control/plasmd.sock");
    let socket = socket.to_str().unwrap();
    let flags = ["--arch", "x86_64", "--control-socket", socket];
    let mut provider = Provider::start(tree.root(), &flags);
    provider.wait_for_log("controlled at ");
    let level = |arguments: &[&str]| {
        let output = plasmd(&[&["log-level", "--control-socket", socket], arguments].concat());
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        )
    };
    assert_eq!(level(&[]), (Some(0), "info".to_owned()));
    assert_eq!(level(&["debug"]), (Some(0), "debug".to_owned()));
    provider.get("/none");
    provider.wait_for_log("status=404");
    assert_eq!(level(&["loud"]).0, Some(1));
    assert_eq!(level(&[]).1, "debug");
    let clients = plasmd(&["clients", "--control-socket", socket]);
    let clients = String::from_utf8_lossy(&clients.stdout).into_owned();
    assert!(clients.contains("/none: REFUSED with 404"), "{clients}");
    let curl = |arguments: &[&str]| {
        let mut command = Command::new("curl");
        command
            .args(["-s", "--max-time", "30", "--unix-socket", socket])
            .args(arguments);
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    };
    let config: Value = serde_json::from_str(&curl(&["http://x/config"])).unwrap();
    let settings = config["settings"].as_array().unwrap();
    let arch = settings.iter().find(|one| one["key"] == "arch").unwrap();
    assert_eq!(
        (arch["values"][0].as_str(), arch["source"].as_str()),
        (Some("x86_64"), Some("flag"))
    );
    assert!(curl(&["http://x/"]).contains("/log-level"));
    assert!(curl(&["-X", "DELETE", "http://x/log-level"]).contains("takes GET, PUT"));
    assert!(curl(&["http://x/none"]).contains("no such route"));
    assert!(curl(&["-X", "PUT", "-d", "{", "http://x/log-level"]).contains("no JSON"));

    // A second one with the same socket.
    let root = tree.root().to_str().unwrap();
    let second = [
        "serve",
        "--bind",
        "127.0.0.1",
        "--port",
        "0",
        "--artifacts",
        root,
    ];
    let output = plasmd(&[&second, &flags[..]].concat());
    assert_eq!(output.status.code(), Some(3));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("another provider (process "), "{error}");

    // The folder is open, the socket is not; and were it, the kernel knows who asks.
    if rustix::process::geteuid().is_root() {
        let chmod = Command::new("chmod")
            .args(["666", socket])
            .status()
            .unwrap();
        assert!(chmod.success());
        let mut stranger = Command::new(PLASMD);
        stranger.args(["log-level", "trace", "--control-socket", socket]);
        let output = stranger.uid(65_534).gid(65_534).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(1),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(level(&[]).1, "debug");
        let page = provider.get("/metrics").text();
        assert_eq!(
            metric(&page, "plasmd_refusals_total{reason=\"control-peer\"}"),
            1.0
        );
    }

    // Killed without a goodbye, it leaves the socket; the next one takes it over.
    provider.signal(rustix::process::Signal::KILL);
    provider.wait();
    let (code, _) = level(&[]);
    assert_eq!(code, Some(1));
    let mut next = Provider::start(tree.root(), &flags);
    assert_eq!(level(&[]).0, Some(0));
    next.signal(rustix::process::Signal::TERM);
    assert!(next.wait().success());
    assert!(!fs::exists(socket).unwrap());
}

#[test]
fn a_reload_takes_what_it_can_and_keeps_the_rest() {
    let tree = tree();
    let logs = tempfile::tempdir().unwrap();
    let (file, log) = (tree.path("plasmd.toml"), logs.path().join("access.log"));
    let socket = tree.path("control.sock");
    let socket = socket.to_str().unwrap();
    let settings = |extra: &str| {
        let text = format!(
            "access_log = {log:?}\narch = \"x86_64\"\ncontrol_socket = {socket:?}\n{extra}"
        );
        fs::write(&file, text).unwrap();
    };
    settings("");
    let mut provider = Provider::start(tree.root(), &["--config", file.to_str().unwrap()]);
    provider.get("/before");
    let reload = || {
        let output = plasmd(&["reload", "--control-socket", socket]);
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let lines = |path: &std::path::Path| fs::read_to_string(path).unwrap_or_default();
    wait_until("the first line", || {
        lines(&log).contains("/before").then_some(())
    });
    let old = logs.path().join("access.log.1");
    fs::rename(&log, &old).unwrap();
    settings("log_level = \"debug\"\nvalid_days = 5\nkey = \"/none\"\n");
    let (code, said) = reload();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("changed: access log"), "{said}");
    assert!(said.contains("needs a restart: key, valid_days"), "{said}");
    provider.get("/after");
    provider.wait_for_log("path=\"/after\"");
    wait_until("the second line", || {
        lines(&log).contains("/after").then_some(())
    });
    assert!(!lines(&old).contains("/after"));

    settings("log_levle = \"info\"\n");
    provider.signal(rustix::process::Signal::HUP);
    provider.wait_for_log("did you mean `log_level`?");
    let (code, said) = reload();
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("problem: settings: the configuration is wrong"),
        "{said}"
    );
    let page = provider.get("/metrics").text();
    assert_eq!(metric(&page, "plasmd_reloads_total"), 1.0);
    assert_eq!(metric(&page, "plasmd_reload_failures_total"), 2.0);
}

#[test]
fn health_and_status_do_not_wait_for_hashing() {
    let tree = tree();
    // Sparse, so that it costs hashing and no disk.
    let large = fs::File::create(tree.path("stable/x86_64/rootfs.squashfs")).unwrap();
    large.set_len(8 << 30).unwrap();
    let mut provider = Provider::start(tree.root(), &["--arch", "x86_64"]);
    for path in ["/health", "/status", "/metrics", "/"] {
        assert_eq!(provider.get(path).status, 200, "{path}");
    }
    let artifacts = provider.get("/status").json()["artifacts"].clone();
    let rootfs = artifacts
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["artifact"] == "rootfs");
    assert_eq!(
        rootfs.unwrap()["hash"],
        Value::Null,
        "8 GiB cannot be hashed by now"
    );
    provider.signal(rustix::process::Signal::INT);
    provider.wait();
}
