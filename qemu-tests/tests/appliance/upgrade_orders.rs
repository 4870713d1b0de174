//! What an operator orders by `plasmd upgrade`: a machine that stages only, tries the new version when it is told to, and goes
//! back when it is told to; and orders of others, which it does not obey.

use std::ffi::OsString;
use std::process::Output;
use std::time::Duration;

use anyhow::{Result, ensure};
use qemu_tests::provider::Settings;
use qemu_tests::story::Scene;
use qemu_tests::{Lan, Machine, Provider, Release, Story, proc};

use crate::upgrade::{A, UPGRADE_LIMIT, digest, own_disk, until, upgrading};
use crate::{BOOT_LIMIT, scene};

pub(crate) const SCENES: &[Scene] = &[scene(
    "a_machine_obeys_its_operator_and_nobody_else",
    300,
    orders,
)];

/// From the order to the commit, or to the old version, on a busy host under emulation.
const ORDER_LIMIT: Duration = Duration::from_secs(180);

/// The machine, and the operator's program beside it.
struct Desk<'a> {
    story: &'a Story,
    lan: &'a Lan,
    machine: &'a Machine,
}

impl Desk<'_> {
    fn url(&self) -> String {
        format!("http://{}:8080", self.machine.address())
    }

    /// Runs `plasmd upgrade COMMAND URL MORE`.
    fn run(&self, command: &str, more: &[&str]) -> Result<Output> {
        let plasmd = self.story.images()?.path("plasmd");
        let url = self.url();
        let words = ["upgrade", command, &url];
        let words = words.iter().chain(more).map(OsString::from);
        let mut all: Vec<OsString> = self.lan.enter().map(OsString::from).to_vec();
        all.push(plasmd.into());
        all.extend(words);
        proc::output("ip", all, ORDER_LIMIT)
    }

    /// Orders something with the key of the image, and waits until it is done.
    fn order(&self, command: &str) -> Result<String> {
        let key = self.story.images()?.path("keys/dev.key");
        let key = key.to_string_lossy();
        let output = self.run(command, &["--key", &key, "--wait", "--timeout", "170"])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{command}: {output:?}");
        self.story.note(format!("{command}: {}", text.trim()));
        Ok(text)
    }
}

fn orders(story: &Story) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let images = story.images()?;
    let second = Release::of(images, "2.0").make(folder.path().join("v2"))?;
    let lan = story.lan()?;
    let b = Provider::start(&lan, &second, &Settings::default())?;
    let disk = own_disk(&images.path("phase.img"), folder.path())?;
    let words = "phase.upgrade=staged phase.upgrade.alone=yes";
    let a = story.boot(&lan, "a", A, &upgrading(images, &disk, &b, words))?;
    let staged = |status: &serde_json::Value| status["waits"] == "waits-for-order";
    until(&lan, &a, UPGRADE_LIMIT, "version 2.0 is staged", staged)?;
    ensure!(!a.said("kexec into")?, "nobody told it to");

    let desk = Desk {
        story,
        lan: &lan,
        machine: &a,
    };
    refuses(&desk, folder.path())?;

    desk.order("apply")?;
    let runs = |images: &qemu_tests::Images| -> Result<String> {
        Ok(format!("running.*{}", digest(images)?))
    };
    let wanted = digest(&second)?.to_string();
    until(&lan, &a, BOOT_LIMIT, &runs(&second)?, |status| {
        status["running"]["digest"] == wanted.as_str() && status["trial"].is_null()
    })?;

    desk.order("rollback")?;
    let wanted = digest(images)?.to_string();
    let status = until(&lan, &a, BOOT_LIMIT, &runs(images)?, |status| {
        status["running"]["digest"] == wanted.as_str()
    })?;
    let history = String::from_utf8_lossy(&desk.run("history", &[])?.stdout).into_owned();
    ensure!(
        history.contains("was committed") && history.contains("was returned to"),
        "{history}"
    );
    ensure!(status["trial"].is_null(), "{status:#}");
    Ok(())
}

/// Nonsense, and an order signed by somebody else.
fn refuses(desk: &Desk<'_>, folder: &std::path::Path) -> Result<()> {
    let url = format!("{}/upgrade/orders", desk.url());
    let nonsense = ["curl", "-gsS", "--data-binary", "apply", &url];
    desk.lan.run(nonsense)?;
    desk.machine
        .wait_for("phase: refused: malformed: an order of", BOOT_LIMIT)?;
    let key = folder.join("somebody.key");
    let plasmd = desk.story.images()?.path("plasmd");
    let key = key.to_string_lossy();
    let plasmd = plasmd.to_string_lossy();
    let made = desk.lan.run([&plasmd, "key", "generate", "--out", &key])?;
    ensure!(made.status.success(), "{made:?}");
    let output = desk.run("apply", &["--key", &key])?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(1) && told.contains("did not take the order"),
        "{output:?}"
    );
    ensure!(
        desk.machine
            .said("phase: refused: unknown-key: an order of")?,
        "it does not say why"
    );
    desk.story.note("orders of others are refused");
    Ok(())
}
