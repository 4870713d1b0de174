//! The `probe` role in front of a real `plasmd serve`, in a network namespace of their own.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd as _;

use boot_manifest::handoff::{ENV, Report};

use crate::desk::image::Image;
use crate::desk::{days_ago, fresh_image};
use crate::init_end;
use crate::lan::{Lan, skip, until};
use crate::provider::{PATIENCE, PLASMD, Tree};

/// The address of the machine that tests itself.
const OWN: &str = "10.77.0.2";

const CHECKS: [&str; 5] = ["dhcp", "manifest", "mdns", "ranges", "tftp"];

/// A machine in a namespace that serves `image`.
struct Machine {
    lan: Lan,
    tree: Tree,
}

impl Machine {
    fn new(test: &str, image: &Image) -> Option<Self> {
        let lan = match Lan::new(&["machine"]) {
            Ok(lan) => lan,
            Err(reason) => {
                skip(test, &reason);
                return None;
            }
        };
        lan.ip("machine", &format!("address add {OWN}/24 dev eth0"))
            .unwrap();
        for link in ["lo", "eth0"] {
            lan.ip("machine", &format!("link set {link} up")).unwrap();
        }
        let tree = Tree::new(&[("stable/x86_64/phase.efi", &[7; 3_000])]);
        for (_, file, bytes) in &image.files {
            tree.write(&format!("stable/x86_64/{file}"), bytes);
        }
        tree.write("stable/x86_64/manifest.json", &image.manifest);
        fs::write(tree.path("trust-root.json"), image.root().to_json()).unwrap();
        Some(Self { lan, tree })
    }

    fn serve(&mut self) {
        let mut command = self.lan.command("machine", PLASMD);
        command
            .args(["serve", "--arch", "x86_64", "--control-socket", "off"])
            .arg("--artifacts")
            .arg(self.tree.root())
            .arg("--state-dir")
            .arg(self.lan.directory().join("state"))
            .env_remove("RUST_LOG");
        self.lan.start("serve", command);
        let serves = || self.lan.log("serve").contains("serving url=");
        assert!(until(PATIENCE, serves), "plasmd did not start");
    }

    /// What the role tells init of each check, of an image that was installed as `manifest`.
    fn probe(&mut self, manifest: &[u8], more: &[&str]) -> BTreeMap<String, (bool, String)> {
        let installed = self.lan.directory().join("installed.json");
        fs::write(&installed, manifest).unwrap();
        let (ours, theirs) = init_end::pair();
        let mut command = self.lan.command("machine", PLASMD);
        command
            .args([
                "probe",
                "--channel",
                "stable",
                "--arch",
                "x86_64",
                "--port",
                "8080",
            ])
            .arg("--manifest")
            .arg(&installed)
            .arg("--trust-root")
            .arg(self.tree.path("trust-root.json"))
            .args(more)
            .env(ENV, theirs.as_raw_fd().to_string());
        let pid = self.lan.start("probe", command);
        drop(theirs);
        let mut told = BTreeMap::new();
        while let Some((report, _)) = init_end::receive(&ours) {
            match report {
                Report::Check { name, ok, reason } => {
                    assert!(told.insert(name, (ok, reason)).is_none(), "told twice");
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(self.lan.wait(pid, PATIENCE), Some(0));
        told
    }
}

#[test]
fn a_machine_that_works_finds_that_it_does() {
    let image = fresh_image();
    let Some(mut machine) = Machine::new("probe a machine that works", &image) else {
        return;
    };
    machine.serve();
    let told = machine.probe(&image.manifest, &[]);
    assert!(told.keys().eq(CHECKS), "{told:?}");
    assert!(told.values().all(|(ok, _)| *ok), "{told:?}");
    let digest = boot_manifest::Digest::of(&image.manifest).to_string();
    assert!(told["manifest"].1.contains(&digest), "{told:?}");
    assert!(told["mdns"].1.contains(OWN), "{told:?}");
    assert!(told["dhcp"].1.contains("phase.efi"), "{told:?}");
}

#[test]
fn wrong_bytes_and_silence_are_found() {
    let image = fresh_image();
    let Some(mut machine) = Machine::new("probe a machine that does not work", &image) else {
        return;
    };
    let short = ["--time", "2"];
    let told = machine.probe(&image.manifest, &short);
    assert!(told.keys().eq(CHECKS), "{told:?}");
    assert!(told.values().all(|(ok, _)| !ok), "nobody serves: {told:?}");

    machine.serve();
    // The same names and sizes, other bytes, signed by the same key.
    let mut files = image.files.clone();
    for (_, _, bytes) in &mut files {
        bytes[0] ^= 1;
    }
    let other = Image::of(days_ago(0), files);
    let off = ["--time", "2", "--no-mdns"];
    let told = machine.probe(&other.manifest, &off);
    for (name, part) in [
        ("manifest", "is not the manifest that was installed"),
        ("ranges", "are not those of the manifest"),
        ("tftp", "are not those of the manifest"),
    ] {
        let (ok, reason) = &told[name];
        assert!(!ok && reason.contains(part), "{name}: {told:?}");
    }
    assert_eq!(told["mdns"], (true, "switched off".to_owned()));
}
