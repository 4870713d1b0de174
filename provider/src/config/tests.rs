//! The order of the places, and what is said about mistakes.

use super::*;
use crate::cli;

/// A file of a test, and an environment.
struct Desk {
    folder: tempfile::TempDir,
    environment: Vec<(OsString, OsString)>,
}

impl Desk {
    fn new(file: &str, environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("plasmd.toml"), file).unwrap();
        let environment = environment
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        Self {
            folder,
            environment,
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("plasmd.toml")
    }

    fn settings(&self, flags: &[&str]) -> Result<Vec<Setting>, Failure> {
        let places = Places {
            environment: self.environment.clone(),
            default_file: self.file(),
        };
        let flags: Vec<OsString> = flags.iter().map(Into::into).collect();
        settings(&cli::serve_command(), &flags, &places)
    }

    /// The value of a setting, and the kind of its place.
    fn one(&self, flags: &[&str], key: &str) -> (String, String) {
        let settings = self.settings(flags).unwrap();
        let setting = settings.iter().find(|one| one.key == key).unwrap();
        let source = match &setting.source {
            Source::File(path, line) => {
                assert_eq!(path, &self.file());
                format!("line {line}")
            }
            other => other.to_string(),
        };
        (setting.values.join(","), source)
    }

    /// The problems, without the folder.
    fn problems(&self, flags: &[&str]) -> Vec<String> {
        let Err(Failure::Problems(problems)) = self.settings(flags) else {
            panic!("no problems")
        };
        let folder = format!("{}/", self.folder.path().display());
        problems
            .iter()
            .map(|problem| problem.to_string().replace(&folder, ""))
            .collect()
    }
}

#[test]
fn flags_then_environment_then_file_then_defaults() {
    let all = Desk::new("port = 1\nchannel = \"f\"\n", &[("PLASMD_PORT", "2")]);
    let none = Desk::new("", &[("PLASMD_PORT", "")]);
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(all.one(&["-p", "3"], "port"), pair("3", "flag"));
    assert_eq!(all.one(&[], "port"), pair("2", "PLASMD_PORT"));
    assert_eq!(all.one(&[], "channel"), pair("f", "line 2"));
    assert_eq!(all.one(&[], "bind"), pair("0.0.0.0", "default"));
    assert_eq!(none.one(&[], "port"), pair("8080", "default"));
    assert_eq!(none.one(&[], "key"), pair("", "default"));
    let lists = Desk::new("bind = [\"::1\", \"127.0.0.1\"]\n", &[]);
    assert_eq!(lists.one(&[], "bind"), pair("::1,127.0.0.1", "line 1"));
    let lists = Desk::new(
        "bind = \"::1\"\n",
        &[("PLASMD_BIND", "127.0.0.2, 127.0.0.1")],
    );
    let bind = pair("127.0.0.2,127.0.0.1", "PLASMD_BIND");
    assert_eq!(lists.one(&[], "bind"), bind);
    assert_eq!(lists.one(&["--bind", "::"], "bind"), pair("::", "flag"));
}

#[test]
fn switches_can_be_switched_off_by_a_higher_place() {
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let desk = Desk::new("no_mdns = true\n", &[]);
    assert_eq!(desk.one(&[], "no_mdns"), pair("true", "line 1"));
    assert_eq!(
        desk.one(&["--no-mdns=false"], "no_mdns"),
        pair("false", "flag")
    );
    let desk = Desk::new("no_mdns = true\n", &[("PLASMD_NO_MDNS", "off")]);
    assert_eq!(desk.one(&[], "no_mdns"), pair("off", "PLASMD_NO_MDNS"));
    assert_eq!(desk.one(&["--no-mdns"], "no_mdns"), pair("true", "flag"));
}

#[test]
fn what_belongs_together_may_come_from_different_places() {
    let desk = Desk::new(
        "key = \"/k\"\nvalid_days = 7\n",
        &[("PLASMD_SEQUENCE", "5")],
    );
    assert_eq!(desk.one(&[], "sequence").0, "5");
    let desk = Desk::new("valid_days = 7\n", &[]);
    assert!(matches!(desk.settings(&[]), Err(Failure::Flags(_))));
    assert_eq!(desk.one(&["--key", "/k"], "valid_days").0, "7");
}

#[test]
fn every_problem_of_every_place_is_reported_at_once() {
    let desk = Desk::new(
        "prot = 8080\nport = 70000\n\nartifacts = [\"/a\"]\nchannel \nconfig = \"x\"\nvalid_days = 0\nzzzzzzzz = 1\n",
        &[
            ("PLASMD_BINDD", "::"),
            ("PLASMD_ARCH", "vax"),
            ("HOME", "/"),
        ],
    );
    let problems = desk.problems(&[]);
    let expected = [
        "PLASMD_ARCH: arch: `vax` is not possible here: ",
        "PLASMD_BINDD: PLASMD_BINDD: unknown setting; did you mean `PLASMD_BIND`?",
        "plasmd.toml:1: prot: unknown setting; did you mean `port`?",
        "plasmd.toml:2: port: `70000` is not possible here: 70000 is not in 0..=65535",
        "plasmd.toml:4: artifacts: takes one value",
        "plasmd.toml:5: ",
        "plasmd.toml:6: a file cannot name another file",
        "plasmd.toml:7: valid_days: `0` is not possible here: 0 is not in 1..=3650",
        "plasmd.toml:8: zzzzzzzz: unknown setting; `plasmd config show` lists all of them",
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, expected) in problems.iter().zip(expected) {
        assert!(problem.starts_with(expected), "{problem}");
    }
}

#[test]
fn a_file_that_is_named_must_be_there_and_ours() {
    let desk = Desk::new("port = 1\n", &[]);
    let other = desk.folder.path().join("other.toml");
    let flags = ["--config", other.to_str().unwrap()];
    let problems = desk.problems(&flags);
    assert!(
        problems[0].starts_with("other.toml: cannot be read: No such file"),
        "{problems:?}"
    );
    std::fs::write(&other, "port = 7\n").unwrap();
    let values = desk.settings(&flags).unwrap();
    assert!(
        values
            .iter()
            .any(|one| one.key == "port" && one.values == ["7"])
    );
    std::process::Command::new("chmod")
        .arg("666")
        .arg(&other)
        .status()
        .unwrap();
    assert!(desk.problems(&flags)[0].contains("chmod o-w"));
    let named = Desk::new("port = 1\n", &[("PLASMD_CONFIG", other.to_str().unwrap())]);
    assert!(named.problems(&[])[0].contains("chmod o-w"));
}

#[test]
fn a_role_of_the_appliance_is_told_by_its_flags_alone() {
    let desk = Desk::new("nonsense\n", &[("PLASMD_NONSENSE", "1")]);
    assert_eq!(desk.one(&["--appliance"], "port").0, "8080");
    assert!(
        matches!(desk.settings(&["--help"]), Err(Failure::Flags(error)) if !error.use_stderr())
    );
}

#[test]
fn every_flag_of_serve_is_a_setting() {
    let serve = cli::serve_command();
    let keys: Vec<String> = settings_of(&serve).map(|(long, _)| key_of(long)).collect();
    for arg in serve.get_arguments() {
        let long = arg
            .get_long()
            .unwrap_or_else(|| panic!("{} has no long name", arg.get_id()));
        let is_known = keys.contains(&key_of(long)) || NO_SETTINGS.contains(&long);
        assert!(is_known, "--{long} has no key");
        assert_eq!(
            long,
            long.to_ascii_lowercase(),
            "its variable would be ambiguous"
        );
    }
    let guide = include_str!("../../../docs/operators-guide.md");
    for key in &keys {
        assert!(
            guide.contains(&format!("| `{key}` |")),
            "{key} is not in the table of the guide"
        );
    }
}

#[test]
fn secrets_are_not_shown() {
    assert_eq!(shown("push_token", OsStr::new("abc")), "(not shown)");
    assert_eq!(
        shown("key", OsStr::new("/etc/release.key")),
        "/etc/release.key"
    );
}
