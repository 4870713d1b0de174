//! `/upgrade` and what is below it, as neighbours, operators and init meet it.

use std::fs;
use std::io::{Read as _, Seek as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::Command;

use boot_manifest::handoff::{ENV, Report};
use boot_manifest::{Action, Digest, Order, SecretKey, TrustRoot, verify_order};

use rustix::fs::{SealFlags, fcntl_get_seals};
use serde_json::{Value, json};

use super::manifest::{artifact, now, signed};
use crate::init_end;
use crate::provider::{PLASMD, Provider, Tree};

fn tree() -> Tree {
    Tree::new(&[("stable/x86_64/vmlinuz", &[1; 5_000])])
}

/// What init says of a machine that serves version 2.
fn status() -> Value {
    json!({
        "mode": "auto", "stage": "idle",
        "running": {
            "digest": Digest::of(b"2"), "place": "a", "version": "2.0", "sequence": 20, "generation": 1,
            "security_version": 1, "proved": true,
        },
        "trial": null, "ledger": "disk", "watchdog": true, "neighbours": 1, "floor": 1, "quarantine": [],
        "history": [], "nonce": "0123456789abcdef0123456789abcdef",
    })
}

/// `plasmd serve` as the appliance has it: init's end of the socket pair, and the file that init writes.
struct Role {
    provider: Provider,
    init: OwnedFd,
    file: std::path::PathBuf,
    tree: Tree,
}

impl Role {
    fn start() -> Self {
        let tree = tree();
        fs::create_dir(tree.path("run")).unwrap();
        let file = tree.path("run/upgrade.json");
        let (init, theirs) = init_end::pair();
        let mut command = Command::new(PLASMD);
        command
            .args(["serve", "--no-mdns", "--bind", "127.0.0.1", "--port", "0"])
            .args(["--arch", "x86_64", "--control-socket", "off"])
            .arg("--artifacts")
            .arg(tree.root())
            .arg("--upgrade-status")
            .arg(&file)
            .env(ENV, theirs.as_raw_fd().to_string());
        Self {
            provider: Provider::spawn(&mut command),
            init,
            file,
            tree,
        }
    }

    /// As init does it.
    fn says(&self, status: &Value) {
        let fresh = self.file.with_extension("new");
        fs::write(&fresh, status.to_string()).unwrap();
        fs::rename(fresh, &self.file).unwrap();
    }

    /// The next order that init hears of: from whom, and its bytes.
    fn next_order(&self) -> (String, Vec<u8>) {
        loop {
            let (report, mut fds) = init_end::receive(&self.init).expect("a report");
            let Report::Order { client } = report else {
                continue;
            };
            assert_eq!(fds.len(), 1);
            let needed = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
            let file = fds.remove(0);
            assert!(fcntl_get_seals(&file).unwrap().contains(needed));
            let mut file = fs::File::from(file);
            file.rewind().unwrap();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            return (client, bytes);
        }
    }
}

#[test]
fn what_init_says_is_shown_to_programs_people_and_monitoring() {
    let role = Role::start();
    let provider = &role.provider;
    assert_eq!(provider.get("/upgrade").status, 503, "it said nothing yet");
    role.says(&status());
    assert_eq!(provider.get("/upgrade").json(), status());
    let page = provider.curl("/upgrade", &["-H", "Accept: text/html"]);
    assert!(page.field("content-type").starts_with("text/html"));
    assert!(page.text().contains("version 2.0"), "{}", page.text());
    let facts = provider.get("/status").json()["upgrade"].clone();
    assert_eq!(facts["stage"], "idle");
    assert_eq!(facts["running"]["sequence"], 20);
    let metrics = provider.get("/metrics").text();
    assert!(
        metrics.contains("\nplasmd_upgrade_running_sequence 20\n"),
        "{metrics}"
    );

    // The file is another one by now, and the sandbox lets it be read.
    let mut later = status();
    later["stage"] = json!("trial");
    role.says(&later);
    assert_eq!(provider.get("/upgrade").json()["stage"], "trial");
}

/// Init serves before all is ready: what the manifest names comes soon, and the rest never.
#[test]
fn what_is_promised_and_not_there_yet_is_asked_for_again() {
    let role = Role::start();
    let folder = role.tree.root().join("stable/x86_64");
    let made = [
        artifact("efi", "phase.efi", b"later"),
        artifact("kernel", "vmlinuz", &[1; 5_000]),
    ];
    fs::write(folder.join("manifest.json"), signed(made.to_vec(), now())).unwrap();
    let provider = &role.provider;
    let early = provider.get("/stable/x86_64/phase.efi");
    assert_eq!(
        (early.status, early.field("retry-after")),
        (503, "1".to_owned())
    );
    assert_eq!(provider.get("/stable/x86_64/other.efi").status, 404);
    fs::write(folder.join("phase.efi"), b"later").unwrap();
    let later = provider.curl("/stable/x86_64/phase.efi", &["--retry", "3"]);
    assert_eq!(later.text(), "later");
}

#[test]
fn orders_go_to_init_as_they_came() {
    let role = Role::start();
    role.says(&status());
    let provider = &role.provider;
    let order = |body: &str, flags: &[&str]| {
        let mut all = vec!["--data-binary", body];
        all.extend(flags);
        provider.curl("/upgrade/orders", &all)
    };
    let answer = order("{\"any\":\"bytes\"}", &[]);
    assert_eq!(
        (answer.status, answer.json()["passed"].clone()),
        (202, json!(true))
    );
    assert_eq!(
        role.next_order(),
        ("127.0.0.1".to_owned(), b"{\"any\":\"bytes\"}".to_vec())
    );
    // One whose sender waits to be told to go on.
    let told = provider.raw(
        b"POST /upgrade/orders HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\
          Connection: close\r\n\r\nagain",
    );
    assert!(told.contains("HTTP/1.1 202 Accepted\r\n"), "{told}");
    assert_eq!(role.next_order().1, b"again");

    assert_eq!(order("", &[]).status, 400);
    let long = "x".repeat(8 * 1024 + 1);
    assert_eq!(order(&long, &[]).status, 413);
    assert_eq!(provider.get("/upgrade/orders").status, 405);
    // More than init would like in one second.
    let statuses: Vec<u16> = (0..40).map(|_| order("x", &[]).status).collect();
    assert!(statuses.contains(&429), "{statuses:?}");
    assert!(statuses.iter().all(|status| [202, 429].contains(status)));
    assert_eq!(provider.get("/health").status, 200);
}

#[test]
fn a_program_on_a_host_has_no_image_and_takes_turns_all_the_same() {
    let tree = tree();
    let provider = Provider::start(tree.root(), &["--arch", "x86_64"]);
    assert_eq!(provider.get("/upgrade").status, 404);
    let answer = provider.curl("/upgrade/orders", &["--data-binary", "x"]);
    assert_eq!(answer.status, 404);
    let (first, second) = ("1".repeat(32), "2".repeat(32));
    assert_eq!(ask(&provider, &first, ""), json!(true));
    assert_eq!(ask(&provider, &first, ""), json!(true), "it keeps it");
    assert_eq!(ask(&provider, &second, ""), json!(false));
    assert_eq!(ask(&provider, &second, "&release=true"), json!(false));
    assert_eq!(ask(&provider, &second, ""), json!(false), "not its own");
    ask(&provider, &first, "&release=true");
    assert_eq!(ask(&provider, &second, ""), json!(true));
    let wrong = provider.curl("/upgrade/turn?id=1", &["-X", "POST"]);
    assert_eq!(wrong.status, 400);
    assert_eq!(provider.get("/upgrade/turn").status, 405);
    let metrics = provider.get("/metrics").text();
    for line in [
        "plasmd_upgrade_turns_total{answer=\"granted\"} 3",
        "plasmd_upgrade_turns_total{answer=\"refused\"} 2",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    }
}

/// Whether the turn is granted.
fn ask(provider: &Provider, id: &str, more: &str) -> Value {
    let digest = Digest::of(b"next");
    let path = format!("/upgrade/turn?id={id}&digest={digest}{more}");
    let answer = provider.curl(&path, &["-X", "POST"]);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["granted"].clone()
}

#[test]
fn a_machine_on_trial_lets_nobody_restart() {
    let role = Role::start();
    let mut trial = status();
    trial["trial"] = json!({ "id": "d7", "phase": "soak" });
    role.says(&trial);
    let id = "3".repeat(32);
    assert_eq!(ask(&role.provider, &id, ""), json!(false));
    role.says(&status());
    assert_eq!(ask(&role.provider, &id, ""), json!(true));
}

/// The tools of an operator read it too.
#[test]
fn the_terminal_shows_it() {
    let role = Role::start();
    role.says(&status());
    let base = role.provider.url("");
    let output = crate::provider::plasmd(&["upgrade", "status", &base]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && text.contains("version 2.0"),
        "{text}"
    );
    let output = crate::provider::plasmd(&["upgrade", "status", &base, "--json"]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value, status());
    assert!(Path::new(&role.file).exists());
}

/// Plays init: takes one order, and says what became of it.
fn obey(role: &Role, root: &TrustRoot, becomes: impl FnOnce(&mut Value)) -> Order {
    let before = status();
    let nonce = before["nonce"].as_str().unwrap().parse().unwrap();
    let (_, bytes) = role.next_order();
    let order = verify_order(&bytes, root, &nonce).unwrap();
    let mut after = before;
    after["nonce"] = json!("ffffffffffffffffffffffffffffffff");
    after["last_order"] =
        json!({ "nonce": nonce, "action": order.action, "ok": true, "reason": null });
    becomes(&mut after);
    role.says(&after);
    (*order).clone()
}

#[test]
fn an_order_is_signed_with_the_nonce_and_followed_to_its_end() {
    let role = Role::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("operator.key");
    let key = SecretKey::from_seed([9; 32]);
    fs::write(&file, key.to_pem()).unwrap();
    let root = TrustRoot::single(key.public());
    let (file, base) = (file.to_str().unwrap(), role.provider.url(""));
    let digest = Digest::of(b"3").to_string();
    let command = |more: &[&str]| {
        let mut all = vec!["upgrade", "apply", &base, "--key", file];
        all.extend(more);
        crate::provider::plasmd(&all)
    };
    // What is done: it runs another image, and nothing is on trial.
    role.says(&status());
    let more = ["--wait", "--force", "--digest", &digest];
    let (output, order) = std::thread::scope(|scope| {
        let told = scope.spawn(|| command(&more));
        let order = obey(&role, &root, |after| {
            after["running"]["version"] = json!("3.0");
            after["running"]["digest"] = json!(digest);
        });
        (told.join().unwrap(), order)
    });
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("it runs version 3.0"), "{text}");
    assert_eq!((order.action, order.force), (Action::Apply, true));
    assert_eq!(order.digest.unwrap().to_string(), digest);

    // What is refused, with the reason; nobody waits for more.
    role.says(&status());
    let output = std::thread::scope(|scope| {
        let told = scope.spawn(|| command(&["--json"]));
        obey(&role, &root, |after| {
            after["last_order"]["ok"] = json!(false);
            after["last_order"]["reason"] = json!("nothing-staged");
        });
        told.join().unwrap()
    });
    assert_eq!(output.status.code(), Some(1));
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(outcome["outcome"], "failed");
    let reason = outcome["reason"].as_str().unwrap();
    assert!(
        reason.contains("(nothing-staged): nothing newer is known"),
        "{reason}"
    );

    // Two people who do not share a machine.
    role.says(&status());
    let (half, second) = (
        folder.path().join("half.json"),
        SecretKey::from_seed([8; 32]),
    );
    let half = half.to_str().unwrap();
    assert!(command(&["--save", half]).status.success());
    let file = folder.path().join("second.key");
    fs::write(&file, second.to_pem()).unwrap();
    let file = file.to_str().unwrap();
    let other = ["upgrade", "rollback", &base, "--key", file, "--with", half];
    let output = crate::provider::plasmd(&other);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("not copies of one document"), "{told}");
    let same = ["upgrade", "apply", &base, "--key", file, "--with", half];
    let (output, order) = std::thread::scope(|scope| {
        let told = scope.spawn(|| crate::provider::plasmd(&same));
        let keys = [&key, &second].map(SecretKey::public);
        let root = TrustRoot::new(1, 2, keys.to_vec(), false).unwrap();
        let order = obey(&role, &root, |_| {});
        (told.join().unwrap(), order)
    });
    assert!(output.status.success(), "{output:?}");
    assert_eq!(order.action, Action::Apply);

    // A host is not asked for anything.
    let tree = tree();
    let host = Provider::start(tree.root(), &["--arch", "x86_64"]);
    let output = crate::provider::plasmd(&["upgrade", "check", &host.url(""), "--key", file]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1) && told.contains("only the appliance"),
        "{told}"
    );
}
