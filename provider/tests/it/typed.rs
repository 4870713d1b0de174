//! Every line of `typed.tsv` does what it says there, or answers with the command that does.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::desk::{Desk, Ended, fresh_image};
use crate::provider::{PLASMD, Provider};

const TABLE: &str = include_str!("typed.tsv");

/// One row of the table.
struct Row<'a> {
    line: &'a str,
    outcome: &'a str,
    said: &'a str,
}

fn rows() -> Vec<Row<'static>> {
    let lines = TABLE
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [line, outcome, said] = fields[..] else {
                panic!("{line:?} has not three fields");
            };
            Row {
                line,
                outcome,
                said,
            }
        })
        .collect()
}

/// A shell that knows the four names and nothing of this machine's own.
fn shell(desk: &Desk, line: &str) -> Command {
    let mut command = Command::new("sh");
    let path = format!("{}:/usr/bin:/bin", desk.path("bin").display());
    command
        .args(["-c", line])
        .current_dir(desk.path(""))
        .env_clear()
        .env("PATH", path);
    command
}

fn check(desk: &Desk, row: &Row<'_>, fill: impl Fn(&str) -> String) -> Result<(), String> {
    let (line, said) = (fill(row.line), fill(row.said));
    if row.outcome == "serves" {
        // It would panic with the log if it did not come up.
        drop(Provider::spawn(&mut shell(desk, &format!("exec {line}"))));
        return Ok(());
    }
    let ended = Ended::of(&shell(desk, &line).output().expect("a shell"));
    let told = format!("{}{}", ended.out, ended.err);
    if ended.code.map(|code| code.to_string()).as_deref() != Some(row.outcome) {
        return Err(format!("{line}: not {}: {ended:?}", row.outcome));
    }
    if !told.contains(&said) {
        return Err(format!("{line}: {said:?} is missing: {ended:?}"));
    }
    Ok(())
}

#[test]
fn what_people_type_works_or_is_answered() {
    let image = fresh_image();
    let desk = Desk::new(&image);
    let folder = desk.path("artifacts/stable/x86_64");
    fs::create_dir_all(&folder).unwrap();
    fs::create_dir(desk.path("bin")).unwrap();
    for name in ["plasmd", "phase-discover", "phase-fetch", "phase-verify"] {
        symlink(PLASMD, desk.path("bin").join(name)).unwrap();
    }
    for place in [folder.as_path(), &desk.path("")] {
        let put = |name: &str, bytes: &[u8]| fs::write(place.join(name), bytes).unwrap();
        put("manifest.json", &image.manifest);
        for (_, filename, bytes) in &image.files {
            put(filename, bytes);
        }
    }
    let provider = Provider::start(&desk.path("artifacts"), &["--arch", "x86_64"]);
    let key_id = image.key.public().key_id().to_string();
    let fill = |text: &str| {
        text.replace("{authority}", &provider.address.to_string())
            .replace("{port}", &provider.address.port().to_string())
            .replace("{key_id}", &key_id)
            .replace("{url}", &provider.url(""))
    };
    let wrong: Vec<String> = rows()
        .iter()
        .filter_map(|row| check(&desk, row, fill).err())
        .collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    assert!(Path::new(&desk.path("fetched/rootfs.squashfs")).exists());
}

#[test]
fn an_answer_is_one_line() {
    let image = fresh_image();
    let desk = Desk::new(&image);
    fs::create_dir(desk.path("bin")).unwrap();
    symlink(PLASMD, desk.path("bin/plasmd")).unwrap();
    for line in [
        "plasmd init",
        "plasmd run x",
        "plasmd serve --signing-keys a",
    ] {
        let ended = Ended::of(&shell(&desk, line).output().unwrap());
        assert_eq!(ended.err.lines().count(), 1, "{line}: {ended:?}");
        assert_eq!(ended.out, "", "{line}");
    }
}
