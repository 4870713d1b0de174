//! The version file of `phase-verify`: the rules that need no clock, and what is left when the power goes at each step.

use std::fs;
use std::process::{Command, Stdio};

use boot_manifest::{Manifest, SecretKey, TrustRoot, sign, unverified_payload};

use crate::desk::image::Image;
use crate::desk::{Desk, Ended, days_ago, fresh_image};

const OLD: &str = "3\ngeneration 1\nsecurity_version 1\n";
const NEW: &str = "7\ngeneration 1\nsecurity_version 1\n";

/// Signs what `change` makes of the image's manifest.
fn changed(image: &Image, change: impl FnOnce(&mut Manifest)) -> Vec<u8> {
    let mut manifest = unverified_payload(&image.manifest).unwrap();
    change(&mut manifest);
    sign(&manifest, &[&SecretKey::from_seed([7; 32])]).unwrap()
}

fn desk(image: &Image) -> Desk {
    let desk = Desk::new(image);
    fs::write(desk.path("manifest.json"), &image.manifest).unwrap();
    desk
}

const UPDATE: [&str; 6] = [
    "manifest.json",
    "-k",
    "key.pub",
    "--check-version",
    "version",
    "--update-version",
];

fn update(desk: &Desk) -> Ended {
    Ended::of(&desk.tool("phase-verify", &UPDATE).output().unwrap())
}

fn version(desk: &Desk) -> String {
    fs::read_to_string(desk.path("version")).unwrap()
}

#[test]
fn counters_restart_with_new_keys_and_never_go_back() {
    let image = fresh_image();
    let desk = desk(&image);
    let key = image.key.public();
    let root = TrustRoot::new(2, 1, vec![key], false).unwrap();
    fs::write(desk.path("two.json"), root.to_json()).unwrap();
    let check = |root: &str, more: &[&str]| {
        let flags = [
            "manifest.json",
            "--trust-root",
            root,
            "--check-version",
            "version",
        ];
        let flags = [&flags[..], &["--json"], more].concat();
        Ended::of(&desk.tool("phase-verify", &flags).output().unwrap())
    };
    // A thief burned the numbers of the first keys.
    fs::write(
        desk.path("version"),
        "9007199254740992\ngeneration 1\nsecurity_version 900\n",
    )
    .unwrap();
    let burned = check("trust-root.json", &[]);
    assert_eq!(burned.json()["code"], "version-too-low", "{burned:?}");
    // The next generation of keys begins anew, and its floor is its own.
    let second = changed(&image, |manifest| manifest.generation = 2);
    fs::write(desk.path("manifest.json"), second).unwrap();
    let cured = check("two.json", &["--update-version"]);
    assert_eq!(cured.code, Some(0), "{cured:?}");
    assert_eq!(version(&desk), "7\ngeneration 2\nsecurity_version 1\n");
    // The old keys are not believed any more, whatever they sign.
    fs::write(desk.path("manifest.json"), &image.manifest).unwrap();
    let old = check("trust-root.json", &["--update-version"]);
    assert_eq!(
        (old.code, &old.json()["code"]),
        (Some(1), &"version-too-low".into())
    );
    assert_eq!(version(&desk), "7\ngeneration 2\nsecurity_version 1\n");
}

#[test]
fn a_security_version_is_a_floor_of_its_own_and_a_jump_is_refused() {
    let image = fresh_image();
    let desk = desk(&image);
    fs::write(
        desk.path("version"),
        "3\ngeneration 1\nsecurity_version 2\n",
    )
    .unwrap();
    let low = update(&desk);
    assert_eq!(low.code, Some(1));
    assert!(
        low.err.contains("security_version 1 is below the floor 2"),
        "{low:?}"
    );
    fs::write(desk.path("version"), OLD).unwrap();
    let far = changed(&image, |manifest| manifest.sequence = (1 << 31) + 4);
    fs::write(desk.path("manifest.json"), far).unwrap();
    let jump = update(&desk);
    assert_eq!(jump.code, Some(1), "{jump:?}");
    assert!(
        jump.err.contains("more than 2147483648 above the 3"),
        "{jump:?}"
    );
    let near = changed(&image, |manifest| manifest.sequence = (1 << 31) + 3);
    fs::write(desk.path("manifest.json"), near).unwrap();
    assert_eq!(update(&desk).code, Some(0));
    // The first manifest of all has nothing to jump from.
    fs::remove_file(desk.path("version")).unwrap();
    let first = changed(&image, |manifest| manifest.sequence = 1 << 40);
    fs::write(desk.path("manifest.json"), first).unwrap();
    assert_eq!(update(&desk).code, Some(0));
}

#[test]
fn without_a_clock_the_version_file_decides_alone() {
    let image = fresh_image();
    for days in [31, -300] {
        let desk = desk(&Image::of(days_ago(days), image.files.clone()));
        let no_clock = |version: &str| {
            fs::write(desk.path("version"), version).unwrap();
            let flags = [&UPDATE[..], &["--no-clock"]].concat();
            Ended::of(&desk.tool("phase-verify", &flags).output().unwrap())
        };
        assert_eq!(update(&desk).code, Some(1), "the clock refuses {days}");
        let good = no_clock(OLD);
        assert_eq!(good.code, Some(0), "{good:?}");
        assert!(good.out.contains("the clock was not asked"), "{good:?}");
        assert_eq!(no_clock("8\n").code, Some(1));
    }
    let desk = desk(&image);
    let alone = desk.tool(
        "phase-verify",
        &["manifest.json", "-k", "key.pub", "--no-clock"],
    );
    let alone = Ended::of(&{ alone }.output().unwrap());
    assert_eq!(alone.code, Some(2), "neither clock nor floor: {alone:?}");
}

/// The system calls of an update in their order, as strace names them.
const STEPS: [&str; 6] = [
    "flock",
    "ftruncate",
    "pwrite64",
    "fsync",
    "renameat",
    "fsync",
];

fn strace(desk: &Desk, options: &[&str]) -> Option<(Ended, String)> {
    let log = desk.path("trace");
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o"])
        .arg(&log)
        .args(options)
        .arg(desk.path("phase-verify"))
        .args(UPDATE)
        .current_dir(desk.path(""))
        .env_remove("RUST_LOG")
        .output();
    let output = output.ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    if text.contains("ptrace") || text.contains("PTRACE") {
        return None;
    }
    let trace = fs::read_to_string(log).unwrap_or_default();
    Some((Ended::of(&output), trace))
}

#[test]
fn a_power_cut_at_any_step_leaves_the_old_number_or_the_new_one() {
    let image = fresh_image();
    let desk = desk(&image);
    fs::write(desk.path("version"), OLD).unwrap();
    let calls = "trace=flock,ftruncate,pwrite64,fsync,renameat";
    let Some((whole, trace)) = strace(&desk, &["-e", calls]) else {
        println!(
            "SKIPPED: a_power_cut_at_any_step_leaves_the_old_number_or_the_new_one: strace cannot be used on this machine"
        );
        return;
    };
    assert_eq!(whole.code, Some(0), "{whole:?}");
    // Content before name, and the name before success: what a power cut may lose is decided by this order.
    let done: Vec<&str> = trace
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1)?.split('(').next())
        .collect();
    let after_lock = &done[done.len() - 6..];
    assert_eq!(
        after_lock,
        [
            "flock",
            "ftruncate",
            "pwrite64",
            "fsync",
            "renameat",
            "fsync"
        ],
        "{trace}"
    );
    for (count, call) in STEPS.iter().enumerate() {
        let nth = 1 + STEPS[..count].iter().filter(|one| one == &call).count();
        for fault in ["signal=KILL", "error=EIO", "error=ENOSPC"] {
            fs::write(desk.path("version"), OLD).unwrap();
            let inject = format!("inject={call}:{fault}:when={nth}");
            let (ended, _) = strace(&desk, &["-e", calls, "-e", &inject]).unwrap();
            let left = version(&desk);
            assert!(left == OLD || left == NEW, "{inject}: {left:?}");
            let renamed = count == STEPS.len() - 1;
            assert_eq!(left == NEW, renamed, "{inject}: {ended:?}");
            if !fault.starts_with("signal") {
                assert_eq!(ended.code, Some(3), "{inject}: {ended:?}");
                assert!(
                    ended.err.contains("the version cannot be written"),
                    "{ended:?}"
                );
            }
            // Nothing that is left over is in the way of the next run.
            let next = update(&desk);
            assert_eq!(
                (next.code, version(&desk).as_str()),
                (Some(0), NEW),
                "{inject}: {next:?}"
            );
        }
    }
}

#[test]
fn updaters_at_the_same_time_end_with_the_highest_number() {
    let image = fresh_image();
    let desk = desk(&image);
    let sequences = 10..22_u64;
    let children: Vec<_> = sequences
        .clone()
        .map(|sequence| {
            let name = format!("{sequence}.json");
            let bytes = changed(&image, |manifest| manifest.sequence = sequence);
            fs::write(desk.path(&name), bytes).unwrap();
            let flags = [&[name.as_str()], &UPDATE[1..]].concat();
            let mut command = desk.tool("phase-verify", &flags);
            command
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        let ended = Ended::of(&child.wait_with_output().unwrap());
        let overtaken = ended.code == Some(1) && ended.err.contains("below the floor");
        assert!(ended.code == Some(0) || overtaken, "{ended:?}");
    }
    assert!(version(&desk).starts_with("21\n"), "{}", version(&desk));
}
