//! Any text as a configuration file: every problem has a line that exists, their number is bounded, and a file without
//! problems says the same when blank lines and remarks are put around it.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[expect(
    dead_code,
    reason = "a module of the program, of which this target uses a part"
)]
#[path = "../../src/config/file.rs"]
mod file;

fuzz_target!(|text: &str| {
    let file::Parsed {
        entries,
        sections,
        problems,
    } = file::parse(text);
    assert!(problems.len() <= file::PROBLEMS_MAX);
    let lines = text.split('\n').count();
    for problem in &problems {
        assert!(problem.line <= lines, "{problem}");
        assert!(!problem.to_string().is_empty());
    }
    for (at, entry) in entries.iter().enumerate() {
        assert!((1..=lines).contains(&entry.line));
        assert!(entries[..at].iter().all(|other| other.key != entry.key));
    }
    for section in &sections {
        assert!((1..=lines).contains(&section.line));
        assert!(matches!(section.path.len(), 1 | 2));
    }
    let around = format!("# remark\n\n{text}\n");
    if problems.is_empty() && around.len() <= file::CONFIG_SIZE_MAX {
        let again = file::parse(&around);
        assert!(again.problems.is_empty());
        assert_eq!(again.entries.len(), entries.len());
        assert_eq!(again.sections.len(), sections.len());
        for (one, other) in again.entries.iter().zip(&entries) {
            assert_eq!(
                (&one.key, &one.value, one.line),
                (&other.key, &other.value, other.line + 2)
            );
        }
    }
});
