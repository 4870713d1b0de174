//! Shell completions and manual pages: what is generated is loaded by the programs it is for.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::provider::{PLASMD, plasmd};

/// What bash offers for the last word of `line`.
fn offered_by_bash(script: &Path, line: &str) -> Vec<String> {
    // What readline does when the person presses Tab.
    let press = r#"
        source "$1"
        read -ra COMP_WORDS <<<"$2"
        [[ $2 == *' ' ]] && COMP_WORDS+=("")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$2 COMP_POINT=${#2}
        spec=$(complete -p "${COMP_WORDS[0]}") || exit 1
        [[ $spec =~ -F\ ([^ ]+) ]]
        "${BASH_REMATCH[1]}" "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let output = Command::new("bash")
        .args(["--norc", "-c", press, "bash"])
        .args([script.as_os_str(), line.as_ref()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    assert!(output.stderr.is_empty(), "{line}: {output:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn bash_completes_every_name() {
    let here = tempfile::tempdir().unwrap();
    let script = here.path().join("all");
    fs::write(&script, plasmd(&["completions", "bash"]).stdout).unwrap();
    for (line, expected) in [
        ("plasmd ver", &["verify", "version"][..]),
        ("plasmd provider ", &["status", "list", "keyid"]),
        ("plasmd serve --no-", &["--no-dht", "--no-mdns"]),
        ("phase-verify --allow", &["--allow-expired"]),
        ("phase-fetch --res", &["--resume"]),
        ("phase-discover --mode ", &["local", "private", "internet"]),
    ] {
        let offered = offered_by_bash(&script, line);
        for word in expected {
            assert!(offered.iter().any(|one| one == word), "{line}: {offered:?}");
        }
    }
    let commands = offered_by_bash(&script, "plasmd ");
    for hidden in ["net", "stage", "generate-key"] {
        assert!(!commands.iter().any(|one| one == hidden), "{commands:?}");
    }
}

#[test]
fn every_shell_has_a_file_for_each_name() {
    let here = tempfile::tempdir().unwrap();
    for (shell, files) in [
        (
            "bash",
            ["plasmd", "phase-discover", "phase-fetch", "phase-verify"],
        ),
        (
            "zsh",
            [
                "_plasmd",
                "_phase-discover",
                "_phase-fetch",
                "_phase-verify",
            ],
        ),
        (
            "fish",
            [
                "plasmd.fish",
                "phase-discover.fish",
                "phase-fetch.fish",
                "phase-verify.fish",
            ],
        ),
    ] {
        let dir = here.path().join(shell);
        fs::create_dir(&dir).unwrap();
        let made = plasmd(&["completions", shell, "--dir", dir.to_str().unwrap()]);
        assert!(made.status.success(), "{made:?}");
        for file in files {
            let check = Command::new(shell).arg("-n").arg(dir.join(file)).output();
            match check {
                Ok(output) => assert!(output.status.success(), "{file}: {output:?}"),
                Err(error) => {
                    assert!(dir.join(file).exists(), "{shell}: no {file}");
                    println!("SKIPPED: {file} is not loaded: {shell} cannot be run ({error})");
                }
            }
        }
    }
    let nowhere = plasmd(&["completions", "bash", "--dir", "/no/such/place"]);
    assert_eq!(nowhere.status.code(), Some(3));
    assert_eq!(
        plasmd(&["completions", "nosuchshell"]).status.code(),
        Some(2)
    );
}

#[test]
fn manual_pages_are_there_for_every_command_and_read_without_a_warning() {
    let here = tempfile::tempdir().unwrap();
    let made = plasmd(&["man", here.path().to_str().unwrap()]);
    assert!(made.status.success(), "{made:?}");
    let mut pages: Vec<String> = fs::read_dir(here.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.sort();
    for page in [
        "plasmd.1",
        "plasmd-serve.1",
        "plasmd-manifest-sign.1",
        "phase-discover.1",
        "phase-fetch.1",
        "phase-verify.1",
        "plasmd.toml.5",
    ] {
        assert!(pages.iter().any(|one| one == page), "no {page}: {pages:?}");
    }
    assert!(
        !pages.iter().any(|page| page == "plasmd-net.1"),
        "{pages:?}"
    );
    let mut skipped = None;
    for page in &pages {
        let file = here.path().join(page);
        let text = fs::read_to_string(&file).unwrap();
        assert!(
            text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"),
            "{page}"
        );
        match Command::new("groff")
            .args(["-man", "-ww", "-K", "utf8", "-T", "utf8", "-Z"])
            .arg(&file)
            .output()
        {
            Ok(output) => assert!(
                output.status.success() && output.stderr.is_empty(),
                "{page}: {}",
                String::from_utf8_lossy(&output.stderr)
            ),
            Err(error) => skipped = Some(error),
        }
    }
    if let Some(error) = skipped {
        println!("SKIPPED: manual pages are not formatted: groff cannot be run ({error})");
    }
    let keys = fs::read_to_string(here.path().join("plasmd.toml.5")).unwrap();
    for part in ["\\fBport\\fR (\\-\\-port, PLASMD_PORT)", "[default: 8080]"] {
        assert!(keys.contains(part), "{part:?} is missing:\n{keys}");
    }
    // What a page says of a flag is what --help says.
    let help = Command::new(PLASMD)
        .args(["serve", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let page = fs::read_to_string(here.path().join("plasmd-serve.1")).unwrap();
    let page = page.replace('\\', "");
    for flag in help
        .split_whitespace()
        .filter(|word| word.starts_with("--"))
    {
        let flag = flag.trim_start_matches('-');
        let flag = flag
            .split(|letter: char| !letter.is_alphanumeric() && letter != '-')
            .next()
            .unwrap();
        assert!(page.contains(flag), "plasmd-serve.1 has no {flag}");
    }
}
