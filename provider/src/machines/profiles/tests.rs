//! Configurations as text, and what they mean for machines.

use super::*;
use crate::config::file;
use crate::machines::record::Facts;

const TEXT: &str = r#"
port = 80

[[profile]]
name = "rack-a"
match = ["52:54:00:*", "vendor=dell"]
channel = "beta"
cmdline = "console=ttyS1"
delay_ms = 500
menu = true
menu_seconds = 5

[[profile]]
name = "install"
boot = "network"
loader = "snponly"
file = "grub.efi"
style = "binl"
boots_max = 3

[[profile]]
name = "rest"
match = "*"
boot = "local"

[machine."52-54-00-12-34-56"]
name = "db1"
cmdline = "quiet"

[machine."52:54:00:12:34:57"]
profile = "install"
"#;

fn profiles(text: &str) -> Profiles {
    let parsed = file::parse(text);
    assert_eq!(parsed.problems, []);
    let (profiles, problems) = read(&parsed.sections);
    assert_eq!(problems, []);
    profiles
}

fn of(profiles: &Profiles, mac: &str, assigned: Option<&str>) -> InForce {
    let facts = Facts::default();
    let subject = Subject {
        mac: mac.parse().unwrap(),
        maker: None,
        facts: &facts,
        arch: None,
    };
    profiles.of(&subject, assigned)
}

#[test]
fn a_machine_has_its_profile_and_what_its_own_table_says() {
    let profiles = profiles(TEXT);
    let db1 = of(&profiles, "52:54:00:12:34:56", None);
    assert_eq!(
        (db1.name.as_deref(), db1.profile.as_deref()),
        (Some("db1"), Some("rack-a"))
    );
    assert_eq!(db1.settings.cmdline.as_deref(), Some("quiet"));
    assert_eq!(db1.settings.channel.unwrap().as_str(), "beta");
    assert_eq!(db1.settings.delay, Some(Duration::from_millis(500)));
    assert_eq!(
        (db1.settings.menu, db1.settings.menu_seconds),
        (Some(true), Some(5))
    );
    assert!(db1.is_named);
    let install = of(&profiles, "52:54:00:12:34:57", None).settings;
    assert_eq!(install.loader, Some(Loader::Snponly));
    assert_eq!(install.file.unwrap().as_str(), "grub.efi");
    assert_eq!(
        (install.style, install.boots_max),
        (Some(Style::Binl), Some(3))
    );
    // By command it may have another one; one that is gone does not count.
    let moved = of(&profiles, "52:54:00:12:34:57", Some("rack-a"));
    assert_eq!(moved.profile.as_deref(), Some("rack-a"));
    let gone = of(&profiles, "52:54:00:12:34:57", Some("gone"));
    assert_eq!(gone.profile.as_deref(), Some("install"));
    // The first that matches counts; a prefix names nobody.
    let other = of(&profiles, "52:54:00:00:00:01", None);
    assert_eq!(
        (other.profile.as_deref(), other.is_named),
        (Some("rack-a"), false)
    );
    let rest = of(&profiles, "02:00:00:00:00:01", None);
    assert_eq!(
        (rest.profile.as_deref(), rest.settings.way),
        (Some("rest"), Some(Way::Local))
    );
    assert_eq!(profiles.facts()[0]["match"][0], "52:54:00:*");
}

#[test]
fn every_problem_is_reported_with_its_line() {
    let text = r#"
[[profile]]
match = ["52:54"]
chanel = "beta"
[[profile]]
name = "a b"
boot = "disk"
menu = 1
delay_ms = 99999
loader = "grub"
style = "x"
cmdline = "a && b"
file = "../x"
[[profile]]
name = "twice"
[[profile]]
name = "twice"
port = 80
[machine."52:54"]
name = "x"
[machine."52:54:00:12:34:56"]
profile = "none"
channel = "Beta"
"#;
    let parsed = file::parse(text);
    assert_eq!(parsed.problems, []);
    let (_, mut problems) = read(&parsed.sections);
    problems.sort_by_key(|problem| problem.line);
    let found: Vec<String> = problems
        .iter()
        .map(|problem| format!("{}: {}", problem.line, problem.reason))
        .collect();
    let expected = [
        "2: [[profile]]: needs a name",
        "3: match: \"52:54\" is no address",
        "4: chanel: unknown here; did you mean `channel`?",
        "6: name: 1 to 96 letters",
        "7: boot: one of network, local and none",
        "8: menu: true or false",
        "9: delay_ms: a number from 0 to 4000",
        "10: loader: one of auto, uki, snponly and ipxe",
        "11: style: one of binl",
        "12: cmdline: iPXE takes no word",
        "13: file: ",
        "16: there are two profiles called twice",
        "18: port: unknown here; ",
        "19: [machine.\"52:54\"]: not an Ethernet address",
        "22: profile: there is no profile called none",
        "23: channel: ",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found} / {expected}");
    }
}
