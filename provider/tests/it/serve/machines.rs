//! Machines as their operator meets them: scripts, reports, lists, decisions and profiles, through the real programs.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::provider::{Answer, PLASMD, Provider, Tree, plasmd, wait_until};

const MAC: &str = "52:54:00:12:34:56";
const OTHER: &str = "52:54:00:00:00:02";

/// What iPXE asks with once it was told to say who it is.
const ASKS: &str = "platform=pcbios&buildarch=i386&product=Standard%20PC&manufacturer=QEMU";

fn tree() -> Tree {
    Tree::new(&[
        ("files/stable/x86_64/vmlinuz", &[1; 50]),
        ("files/stable/x86_64/initramfs.img", &[2; 30]),
        ("files/stable/x86_64/rootfs.squashfs", &[3; 30]),
        ("files/debian/x86_64/linux", &[4; 20]),
        ("files/debian/x86_64/initrd.gz", &[5; 20]),
        (
            "files/debian/x86_64/boot.toml",
            b"title = \"Debian 12\"\ncmdline = \"auto=true\"\nonce = true\n",
        ),
        (
            "plasmd.toml",
            b"# Machines of the test.\n[[profile]]\nname = \"lab\"\nchannel = \"debian\"\n\
              [machine.\"52-54-00-12-34-56\"]\nname = \"db1\"\nchannel = \"stable\"\ncmdline = \"console=ttyS1\"\n",
        ),
    ])
}

/// A provider whose decisions are kept, and its control socket.
fn start(tree: &Tree, flags: &[&str]) -> (Provider, String) {
    let path = |name: &str| tree.path(name).to_str().unwrap().to_owned();
    let (socket, state, config) = (path("run/c.sock"), path("state"), path("plasmd.toml"));
    let mut all = vec![
        "--arch",
        "x86_64",
        "--control-socket",
        &socket,
        "--state-dir",
        &state,
        "--config",
        &config,
    ];
    all.extend(flags);
    let mut provider = Provider::start(&tree.path("files"), &all);
    provider.wait_for_log("controlled at ");
    (provider, socket)
}

/// What a command of `plasmd clients` says, and its exit code.
fn clients(socket: &str, args: &[&str]) -> (i32, String) {
    let all = [&["clients"], args, &["--control-socket", socket]].concat();
    let output = plasmd(&all);
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

fn listed(socket: &str) -> Value {
    let (code, text) = clients(socket, &["--json"]);
    assert_eq!(code, 0, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// The machine of that address in the list.
fn machine(socket: &str, mac: &str) -> Value {
    let all = listed(socket);
    let mut machines = all["machines"].as_array().unwrap().iter();
    let found = machines.find(|machine| machine["mac"] == mac);
    found.cloned().unwrap_or_else(|| panic!("no {mac}: {all}"))
}

/// A request from the address of the machine, which is not that of this machine's own tools.
fn fetch(provider: &Provider, path: &str) -> Answer {
    fetch_as(provider, MAC, path)
}

/// The same of either machine: two at one address could not be told from each other.
fn fetch_as(provider: &Provider, mac: &str, path: &str) -> Answer {
    let address = if mac == MAC { "127.0.0.9" } else { "127.0.0.8" };
    provider.curl(path, &["--interface", address])
}

fn script(provider: &Provider, mac: &str) -> String {
    let answer = fetch_as(provider, mac, &format!("/boot.ipxe?mac={mac}&{ASKS}"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(
        answer.head.contains("Content-Type: text/plain\r\n"),
        "{}",
        answer.head
    );
    answer.text()
}

fn report(provider: &Provider, query: &str) -> Answer {
    provider.curl(
        &format!("/boot/report?{query}"),
        &["-X", "POST", "--interface", "127.0.0.9"],
    )
}

#[test]
fn a_machine_asks_fetches_and_reports_and_all_of_it_is_seen() {
    let tree = tree();
    let (provider, socket) = start(&tree, &[]);
    assert!(
        clients(&socket, &[])
            .1
            .starts_with("no machine has asked for anything")
    );
    let first = provider.get("/boot.ipxe").text();
    assert!(
        first.contains("/boot.ipxe?mac=${netX/mac:hexhyp}&uuid=${uuid}&platform="),
        "{first}"
    );
    let text = script(&provider, MAC);
    let base = format!("http://{}", provider.address);
    let kernel = format!(
        "kernel {base}/stable/x86_64/vmlinuz initrd=initramfs.img phase.provider={base} phase.channel=stable console=ttyS1 ||"
    );
    assert!(text.contains(&kernel), "{text}");
    // The address it asked from is its own now.
    fetch(&provider, "/stable/x86_64/vmlinuz");
    fetch(&provider, "/stable/x86_64/initramfs.img");
    wait_until("what was fetched", || {
        (machine(&socket, MAC)["state"] == "booting").then_some(())
    });
    for stage in ["linux", "manifest&ago=5", "mounted"] {
        let answer = report(&provider, &format!("mac={MAC}&stage={stage}"));
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{stage}");
    }
    report(
        &provider,
        &format!("mac={MAC}&stage=failed&text=no%20room%1b"),
    );
    let shown = machine(&socket, MAC);
    assert_eq!(shown["state"], "failed");
    assert_eq!(shown["boot"]["error"], "no room?");
    report(&provider, &format!("mac={MAC}&stage=serving"));
    let shown = machine(&socket, MAC);
    let expected = json!(["serving", "db1", "Standard PC", "QEMU", 1]);
    let found: Vec<&Value> = ["state", "name", "product", "manufacturer", "boots"]
        .map(|member| &shown[member])
        .to_vec();
    assert_eq!(json!(found), expected, "{shown}");
    assert!(shown["bytes"].as_u64() > Some(80), "{shown}");
    let stages: Vec<&Value> = shown["boot"]["stages"].as_array().unwrap().iter().collect();
    let names: Vec<&str> = stages
        .iter()
        .filter_map(|one| one["stage"].as_str())
        .collect();
    for name in [
        "discover", "script", "kernel", "initrd", "linux", "manifest", "mounted", "serving",
    ] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    let (_, table) = clients(&socket, &[]);
    let row = table.lines().find(|line| line.starts_with(MAC)).unwrap();
    assert!(
        row.contains("  db1 ") && row.contains("  serving "),
        "{table}"
    );
    let (_, story) = clients(&socket, &["show", "525400123456"]);
    assert!(story.contains("made by      QEMU, Standard PC"), "{story}");
    assert!(
        story.contains("/stable/x86_64/vmlinuz: 50 bytes"),
        "{story}"
    );
    assert_eq!(clients(&socket, &["show", OTHER]).0, 1);
    let page = provider.get("/metrics").text();
    for line in [
        "plasmd_machines{state=\"serving\"} 1",
        "plasmd_machine_boots_total 1",
        "plasmd_machine_stages_total{stage=\"kernel\"} 1",
        "plasmd_machine_boot_duration_seconds_count 1",
        "plasmd_machine_failures_total 1",
    ] {
        assert!(page.lines().any(|one| one == line), "{line}");
    }
}

#[test]
fn the_page_is_json_for_programs_and_html_for_people() {
    let tree = tree();
    let (provider, _) = start(&tree, &[]);
    script(&provider, MAC);
    let answer = provider.get("/clients");
    assert!(answer.head.contains("Content-Type: application/json"));
    assert_eq!(answer.json()["machines"][0]["mac"], MAC);
    assert_eq!(answer.json()["rules"]["only"], "all");
    let browser = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let page = provider.curl("/clients", &["-H", browser]);
    assert!(page.head.contains("Content-Type: text/html; charset=utf-8"));
    assert!(page.text().contains(MAC), "{}", page.text());
    // Only one of the routes takes POST, and only that.
    for (path, method, status) in [
        ("/clients", "POST", 405),
        ("/boot.ipxe", "POST", 405),
        ("/boot/report?stage=linux", "GET", 405),
        ("/boot/report?stage=linux", "POST", 204),
        ("/boot/report", "POST", 400),
        ("/boot/report?stage=won", "POST", 400),
        ("/boot/report?stage=linux&mac=x", "POST", 400),
        ("/boot/report?stage=linux&stage=linux", "POST", 400),
        ("/boot.ipxe?mac=52:54", "GET", 400),
        ("/boot.ipxe?mac=ff:ff:ff:ff:ff:ff", "GET", 400),
        ("/boot-local-disk.efi", "GET", 404),
    ] {
        let answer = provider.curl(path, &["-X", method]);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.text());
    }
    // The name that the client calls us goes into the script, so it must be one.
    let odd = provider.curl("/boot.ipxe", &["-H", "Host: a'b"]);
    assert_eq!(odd.status, 400, "{}", odd.text());
    // Nothing but a known address makes a report without one count.
    let before = provider.get("/clients").json()["machines"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(before, 1);
}

#[test]
fn what_the_operator_decides_holds_and_outlives_the_provider() {
    let tree = tree();
    let (mut provider, socket) = start(&tree, &["--only", "known"]);
    // One that the configuration names is no stranger; the other one has to wait.
    assert!(script(&provider, MAC).contains("/vmlinuz"));
    let waits = script(&provider, OTHER);
    let asks = format!("this machine has to be allowed: plasmd clients allow {OTHER}");
    assert!(
        waits.contains(&asks) && waits.contains("goto again"),
        "{waits}"
    );
    provider.wait_for_log("a machine waits to be allowed");
    let (_, table) = clients(&socket, &[]);
    assert!(
        table.contains(&format!("allow it with: plasmd clients allow {OTHER}")),
        "{table}"
    );
    assert_eq!(clients(&socket, &["allow", OTHER]).0, 0);
    assert!(script(&provider, OTHER).contains("menu "));
    let (code, text) = clients(&socket, &["profile", "nobody", OTHER]);
    assert!(code == 1 && text.contains("there are lab"), "{text}");
    assert_eq!(clients(&socket, &["profile", "lab", OTHER]).0, 0);
    assert!(
        script(&provider, OTHER).contains("/debian/x86_64/linux initrd=initrd.gz auto=true ||")
    );
    assert_eq!(clients(&socket, &["local", MAC, OTHER]).0, 0);
    assert_eq!(clients(&socket, &["once", "--channel", "debian", MAC]).0, 0);
    // What was said is durable when the command returns.
    provider.signal(rustix::process::Signal::KILL);
    provider.wait();
    drop(provider);
    let (provider, socket) = start(&tree, &["--only", "known"]);
    let shown = machine(&socket, OTHER);
    assert_eq!(
        (&shown["state"], &shown["order"]),
        (&json!("not-seen"), &json!("local"))
    );
    assert_eq!(shown["profile"], "lab");
    assert!(script(&provider, OTHER).contains("sanboot"));
    // Once: until all of it was sent, and then as before.
    for _ in 0..2 {
        assert!(script(&provider, MAC).contains("/debian/x86_64/linux"));
    }
    fetch(&provider, "/debian/x86_64/linux");
    // In two parts, as firmware does that resumes.
    for range in ["0-11", "12-"] {
        let part = ["--interface", "127.0.0.9", "-r", range];
        assert_eq!(provider.curl("/debian/x86_64/initrd.gz", &part).status, 206);
    }
    wait_until("the end of what was said for once", || {
        script(&provider, MAC).contains("sanboot").then_some(())
    });
    assert_eq!(machine(&socket, MAC)["installed"], "debian/x86_64");
    assert_eq!(clients(&socket, &["network", MAC]).0, 0);
    assert!(script(&provider, MAC).contains("/stable/x86_64/vmlinuz"));
    assert_eq!(clients(&socket, &["deny", MAC]).0, 0);
    assert!(script(&provider, MAC).ends_with("exit 1\n"));
    assert_eq!(clients(&socket, &["forget", MAC]).0, 0);
    assert_eq!(clients(&socket, &["forget", MAC]).0, 1);
    assert!(script(&provider, MAC).contains("/stable/x86_64/vmlinuz"));
    for wrong in [
        &["allow"][..],
        &["allow", "52:54"],
        &["once", MAC, "--local", "--channel", "a"],
    ] {
        assert_eq!(clients(&socket, wrong).0, 2, "{wrong:?}");
    }
}

#[test]
fn profiles_come_with_a_reload_and_mistakes_leave_the_old_ones() {
    let tree = tree();
    let (provider, socket) = start(&tree, &[]);
    assert!(script(&provider, OTHER).contains("menu "));
    let reload = || plasmd(&["reload", "--control-socket", &socket]);
    let text = format!(
        "[[profile]]\nname = \"all\"\nmatch = \"*\"\nchannel = \"debian\"\n[machine.\"{MAC}\"]\nboot = \"none\"\n"
    );
    fs::write(tree.path("plasmd.toml"), &text).unwrap();
    let output = reload();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("changed: settings"));
    assert!(script(&provider, OTHER).contains("/debian/x86_64/linux"));
    assert!(script(&provider, MAC).ends_with("exit 1\n"));
    fs::write(tree.path("plasmd.toml"), text.replace("channel", "chanel")).unwrap();
    assert!(!reload().status.success());
    let problem = reload_problem(&socket);
    let expected = "plasmd.toml:4: chanel: unknown here; did you mean `channel`?";
    assert!(problem.contains(expected), "{problem}");
    assert!(script(&provider, OTHER).contains("/debian/x86_64/linux"));
}

/// What a reload answers on the socket.
fn reload_problem(socket: &str) -> String {
    let output = Command::new("curl")
        .args([
            "-s",
            "-X",
            "POST",
            "--unix-socket",
            socket,
            "http://x/reload",
        ])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_list_is_renewed_while_somebody_watches() {
    let tree = tree();
    let (provider, socket) = start(&tree, &[]);
    let mut watching = Command::new(PLASMD)
        .args(["clients", "--watch", "--json", "--control-socket", &socket])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["machines"], json!([]));
    script(&provider, MAC);
    let seen = wait_until("the machine", || {
        let machines = next()["machines"].clone();
        (machines != json!([])).then_some(machines)
    });
    watching.kill().unwrap();
    watching.wait().unwrap();
    assert_eq!(seen[0]["mac"], MAC);
}

#[test]
fn a_state_file_that_cannot_be_read_is_put_aside_and_one_has_one_provider() {
    let tree = tree();
    tree.write("state/machines-v1/machines.json", b"{\"machines\": {");
    let (mut first, socket) = start(&tree, &[]);
    first.wait_for_log("what was decided about machines cannot be read");
    assert!(Path::new(&tree.path("state/machines-v1/machines.json.bad")).exists());
    assert_eq!(clients(&socket, &["deny", MAC]).0, 0);
    let kept = fs::read_to_string(tree.path("state/machines-v1/machines.json")).unwrap();
    assert!(
        kept.contains(MAC) && kept.contains("\"is_allowed\": false"),
        "{kept}"
    );
    // Another one with the same state directory serves, and keeps its own decisions in memory.
    let (state, other) = (tree.path("state"), tree.path("run/other.sock"));
    let flags = [
        "--state-dir",
        state.to_str().unwrap(),
        "--control-socket",
        other.to_str().unwrap(),
    ];
    let mut second = Provider::start(&tree.path("files"), &flags);
    second.wait_for_log("machines-v1: another provider keeps its own there");
    let (code, text) = clients(other.to_str().unwrap(), &["deny", OTHER]);
    assert!(code == 0 && text.contains("a restart forgets it"), "{text}");
}
