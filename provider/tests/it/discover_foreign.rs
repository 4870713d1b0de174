//! Other implementations and ours find each other: avahi and python-zeroconf both ways, and js-libp2p asks our DHT.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use crate::discover::{Rig, has_avahi, start_avahi, stdout};
use crate::discover_dht::node;
use crate::foreign;
use crate::lan::{skip, until};

/// The other implementation of DNS-SD, in Python.
const ZEROCONF: &str = "zeroconf==0.154.0";

const TYPE: &str = "_phase-image._tcp.local.";

/// How long others take to hear, and we to hear them.
const HEARD: Duration = Duration::from_secs(20);

/// What a provider says of itself.
const FACTS: [&str; 4] = [
    "channel=stable",
    "arch=x86_64",
    "version=7",
    "http_port=8080",
];

fn zeroconf(test: &str) -> Option<std::path::PathBuf> {
    let python = foreign::python(ZEROCONF, "python", &["-c", "import zeroconf"]);
    python
        .map_err(|why| skip(test, &format!("{ZEROCONF} cannot be installed: {why}")))
        .ok()
}

/// Starts `tests/python/dnssd.py` on a host.
fn dnssd(rig: &mut Rig, python: &Path, host: &str, log: &str, arguments: &[&str]) -> u32 {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/dnssd.py");
    let mut command = rig.lan.command(host, &python.display().to_string());
    command.arg(script).args(arguments);
    rig.lan.start(log, command)
}

fn is_said(rig: &Rig, log: &str, what: &str, holds: impl Fn(&str) -> bool) -> String {
    let find = || {
        let log = rig.lan.log(log);
        log.lines().find(|line| holds(line)).map(str::to_owned)
    };
    assert!(
        until(HEARD, || find().is_some()),
        "{what}: {}",
        rig.lan.log(log)
    );
    find().unwrap_or_default()
}

fn discovered(rig: &Rig, host: &str) -> Value {
    let found = rig.tool_on(
        host,
        "phase-discover",
        &["--json", "--quiet", "--arch", "x86_64", "--timeout", "20"],
    );
    serde_json::from_slice(&found.stdout).unwrap_or_else(|_| panic!("{found:?}"))
}

#[test]
fn zeroconf_hears_every_address_each_change_and_the_goodbye() {
    let test = "zeroconf_hears_every_address";
    let Some(python) = zeroconf(test) else { return };
    let Some(mut rig) = Rig::new(test) else {
        return;
    };
    rig.give_address();
    // A second network between the two, and IPv6 on the first.
    rig.lan.join("provider", "eth1", "client", "eth1").unwrap();
    for (host, last) in [("provider", 1), ("client", 2)] {
        for order in [
            "link set eth1 up".to_owned(),
            format!("address add 10.79.0.{last}/24 dev eth1"),
            format!("address add fd78::{last}/64 dev eth0 nodad"),
        ] {
            rig.lan.ip(host, &order).unwrap();
        }
    }
    dnssd(&mut rig, &python, "client", "browse", &["browse", TYPE]);
    is_said(&rig, "browse", "it starts", |line| line == "browsing");
    let serve = rig.start_on("provider", "serve", &["--bind", "::"]);
    let line = is_said(&rig, "browse", "found with every address", |line| {
        let all = ["10.78.0.1", "10.79.0.1", "fd78::1"];
        all.iter().all(|address| line.contains(address))
    });
    assert!(line.contains(" 8080 "), "{line}");
    for fact in [
        "arch=x86_64",
        "channel=stable",
        "http_port=8080",
        "manifest=sha256:",
    ] {
        assert!(line.contains(fact), "{fact}: {line}");
    }
    // So does our own client, which lists them in the order to try them.
    let json = discovered(&rig, "client");
    let urls = json["providers"][0]["urls"].as_array().unwrap();
    let urls: Vec<&str> = urls.iter().filter_map(Value::as_str).collect();
    let url = |host: &str| format!("http://{host}:8080/stable/x86_64/manifest.json");
    assert_eq!(urls, ["10.78.0.1", "10.79.0.1", "[fd78::1]"].map(url));

    rig.lan
        .ip("provider", "address del 10.78.0.1/24 dev eth0")
        .unwrap();
    rig.lan
        .ip("provider", "address add 10.78.0.7/24 dev eth0")
        .unwrap();
    let has_moved = until(HEARD, || {
        let json = discovered(&rig, "client");
        let urls = json["providers"][0]["urls"].to_string();
        urls.contains("//10.78.0.7:") && !urls.contains("//10.78.0.1:")
    });
    assert!(has_moved, "the old address is announced still");

    let name = line.split(' ').nth(1).unwrap_or_default();
    rig.stop(serve);
    is_said(&rig, "browse", "the goodbye", |line| {
        line == format!("lost {name}")
    });
}

#[test]
fn what_zeroconf_publishes_is_found_and_names_part() {
    let test = "what_zeroconf_publishes";
    let Some(python) = zeroconf(test) else { return };
    let Some(mut rig) = Rig::new(test) else {
        return;
    };
    rig.give_address();
    // Something that accepts connections where the foreign provider says it is.
    let _http = rig
        .lan
        .within("client", || TcpListener::bind("10.78.0.2:8080").unwrap());
    let publish = ["publish", TYPE, "foreign", "10.78.0.2", "8080"];
    let arguments = [&publish[..], &FACTS].concat();
    let foreign = dnssd(&mut rig, &python, "client", "publish", &arguments);
    is_said(&rig, "publish", "published", |line| {
        line.starts_with("published foreign.")
    });
    let json = discovered(&rig, "provider");
    assert_eq!(json["peer_id"], "foreign");
    assert_eq!(json["providers"][0]["version"], "7");
    assert_eq!(
        json["manifest_url"],
        "http://10.78.0.2:8080/stable/x86_64/manifest.json"
    );
    rig.lan.kill(foreign);

    // It wants the name of a provider that is there, and is told so.
    rig.start_provider();
    let ours = discovered(&rig, "client")["peer_id"].clone();
    let ours = ours.as_str().unwrap_or_default();
    let publish = ["publish", TYPE, ours, "10.78.0.2", "8080"];
    let arguments = [&publish[..], &FACTS].concat();
    dnssd(&mut rig, &python, "client", "second", &arguments);
    let line = is_said(&rig, "second", "published", |line| {
        line.starts_with("published ")
    });
    assert!(!line.contains(&format!("{ours}.{TYPE}")), "{line}");
}

#[test]
fn what_avahi_publishes_is_found_and_names_part() {
    let test = "what_avahi_publishes";
    if !has_avahi(test) {
        return;
    }
    let Some(mut rig) = Rig::new(test) else {
        return;
    };
    rig.give_address();
    rig.lan
        .ip("other", "address add 10.78.0.3/24 dev eth0")
        .unwrap();
    let address = start_avahi(&mut rig.lan);
    let serve = rig.start_on("provider", "first", &[]);
    let name = discovered(&rig, "client")["peer_id"].clone();
    let name = name.as_str().unwrap_or_default().to_owned();
    rig.stop(serve);
    // Somebody else takes the name while nobody has it.
    let _http = rig
        .lan
        .within("client", || TcpListener::bind("10.78.0.2:8080").unwrap());
    let mut publish = rig.lan.command("client", "avahi-publish");
    publish
        .args(["--service", &name, "_phase-image._tcp", "8080"])
        .args(FACTS)
        .env("DBUS_SYSTEM_BUS_ADDRESS", &address);
    rig.lan.start("publish", publish);
    is_said(&rig, "publish", "established", |line| {
        line.contains("Established under name")
    });
    let json = discovered(&rig, "other");
    assert_eq!(
        (json["peer_id"].as_str(), json["provider_count"].as_u64()),
        (Some(&*name), Some(1))
    );

    rig.start_on("provider", "again", &[]);
    // Which of the two takes another name is for them to find out: whoever hears the other first. Until then one name has
    // the facts of both, or three are heard.
    let mut last = Value::Null;
    let have_parted = until(HEARD, || {
        last = discovered(&rig, "other");
        let of_each = |member: &str| -> BTreeSet<String> {
            let listed = last["providers"].as_array().into_iter().flatten();
            let texts = listed.filter_map(|found| found[member].as_str());
            texts.map(str::to_owned).collect()
        };
        let (ids, urls) = (of_each("id"), of_each("manifest_url"));
        last["provider_count"] == 2
            && (ids.len(), urls.len()) == (2, 2)
            && ids.iter().all(|id| id.starts_with(&name))
    });
    assert!(have_parted, "{last:#}");
}

#[test]
fn js_libp2p_reads_our_record() {
    let test = "js_libp2p_reads_our_record";
    let (node_js, folder) = match foreign::javascript() {
        Ok(found) => found,
        Err(why) => {
            skip(test, &format!("js-libp2p cannot be installed: {why}"));
            return;
        }
    };
    let Some(rig) = Rig::new(test) else { return };
    rig.give_address();
    rig.lan
        .ip("other", "address add 10.78.0.3/24 dev eth0")
        .unwrap();
    let rig = &rig;
    std::thread::scope(|scope| {
        let (ready, started) = mpsc::channel();
        let (hold, stop) = watch::channel(());
        let (first_ready, first_stop) = (ready.clone(), stop.clone());
        scope.spawn(move || node(rig, "other", None, &first_ready, first_stop));
        let first = started.recv().unwrap();
        let http: SocketAddr = "10.78.0.1:8080".parse().unwrap();
        scope.spawn(move || node(rig, "provider", Some(http), &ready, stop));
        let provider = started.recv().unwrap();
        let mut find: Command = rig.lan.command("client", &node_js.display().to_string());
        find.arg(folder.join("find.mjs"))
            .args(["/ip4/10.78.0.3/tcp/4011", "/phase/stable/x86_64/manifest"]);
        let found = find.output().unwrap();
        let json: Value = serde_json::from_slice(&found.stdout)
            .unwrap_or_else(|_| panic!("{found:?} {}", stdout(&found)));
        assert_eq!(json["node"], first.as_str());
        let listed = json["providers"].as_array().unwrap();
        assert_eq!(listed.len(), 1, "{json}");
        assert_eq!(listed[0]["id"], provider.as_str());
        assert_eq!(listed[0]["channel"], "stable");
        assert_eq!(listed[0]["arch"], "x86_64");
        assert_eq!(
            listed[0]["addresses"],
            serde_json::json!(["10.78.0.1:8080"])
        );
        drop(hold);
    });
}
