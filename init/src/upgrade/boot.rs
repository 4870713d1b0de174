//! What a machine finds out when it starts: the disk it came from, and what a kernel that died said last.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use boot_manifest::Digest;
use upgrade::Place;
use upgrade::limits::DETAIL_SIZE_MAX;

use super::disk::Disk;
use crate::limits;
use crate::machine::Machine;
use crate::plan::Stop;
use crate::source::{self, DiskWait, Judged};
use crate::verify::Tick;

/// The disk whose slot `place` holds what runs. It was there before the jump, so it is waited for like a disk that is the
/// only source: `None` means that it is gone.
pub(crate) fn home_of(
    machine: &mut Machine,
    place: Place,
    digest: &Digest,
) -> Result<Option<Disk>, Stop> {
    let seconds = machine.options.disk_wait_seconds;
    let most = Duration::from_secs(u64::from(seconds.max(limits::DISK_WAIT_SECONDS)));
    let mut wait = DiskWait::new(Instant::now(), true, most);
    let mut seen = None;
    loop {
        let found = Disk::all();
        let names: Vec<String> = found.iter().map(|disk| disk.name().to_owned()).collect();
        // A disk that held something else is not read again.
        if seen.as_ref() != Some(&names) {
            let mut tick = || machine.turn(Duration::ZERO);
            if let Some(disk) = Disk::holding(found, place, digest, &mut tick)? {
                return Ok(Some(disk));
            }
            seen = Some(names);
        }
        let devices = source::devices(Path::new("/sys/class"), Path::new("/sys/bus/usb/devices"));
        if !wait.goes_on(Instant::now(), devices) {
            return Ok(None);
        }
        machine.turn(limits::DISK_POLL)?;
    }
}

/// Puts that of several media with the newest image first whose ledger was written most: the disk that this machine lives
/// on, and not the stick it was installed from, whichever the kernel saw first. The order of others stays.
pub(crate) fn used_first(judged: &mut [Judged], tick: Tick<'_>) -> Result<(), Stop> {
    let newest = judged.first().map(|first| first.manifest.digest());
    let is_newest = |one: &&Judged| Some(one.manifest.digest()) == newest;
    let same = judged.iter().take_while(is_newest).count();
    if same < 2 {
        return Ok(());
    }
    let mut writes = BTreeMap::new();
    for one in &judged[..same] {
        let device = one.device().to_owned();
        let disk = Disk::of(Path::new(&device));
        let count = disk.map_or(Ok(0), |mut disk| disk.writes(tick))?;
        writes.insert(device, count);
    }
    judged[..same].sort_by_key(|one| Reverse(writes.get(one.device()).copied()));
    Ok(())
}

/// Begins the names of the kernel's records of a crash; others are no crash.
const RECORD: &str = "dmesg-";

/// What the kernel says when it dies, and `init` before it.
const LAST_WORDS: [&str; 2] = ["Kernel panic - not syncing", "phase: fatal: panic"];

/// The last words of a kernel that died before this boot, if it left any. They are deleted: a later boot must not take them
/// for its own predecessor's, and the memory of firmware that holds them is small.
pub(crate) fn last_words(pstore: &Path) -> Option<String> {
    let mut records: Vec<_> = fs::read_dir(pstore)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(RECORD))
        })
        .take(limits::CRASH_RECORDS_MAX)
        .collect();
    records.sort();
    let (mut words, mut kind) = (None, None);
    for path in &records {
        let mut bytes = Vec::new();
        let read = File::open(path)
            .map(|file| file.take(limits::CRASH_RECORD_SIZE_MAX))
            .and_then(|mut file| file.read_to_end(&mut bytes));
        let text = String::from_utf8_lossy(&bytes);
        let is_last = |line: &&str| LAST_WORDS.iter().any(|words| line.contains(words));
        let found = text.lines().rev().find(is_last);
        // A record without them still says that there was a crash; its first line says which kind.
        let first = read.is_ok().then(|| text.lines().next()).flatten();
        words = found.map(clean).or(words);
        kind = kind.or_else(|| first.map(clean));
        let _stays_and_is_told_again = fs::remove_file(path);
    }
    let unknown = || "a record that cannot be read".to_owned();
    (!records.is_empty()).then(|| words.or(kind).unwrap_or_else(unknown))
}

/// The line without its level and time, as short as an explanation may be.
fn clean(line: &str) -> String {
    let text = match line.split_once("] ") {
        Some((head, text)) if head.starts_with(['<', '[']) => text,
        _ => line,
    };
    let plain = |c: char| {
        if c == ' ' || c.is_ascii_graphic() {
            c
        } else {
            '?'
        }
    };
    text.trim()
        .chars()
        .take(DETAIL_SIZE_MAX)
        .map(plain)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PANIC: &str = "Panic#1 Part1\n<6>[    3.1] usb 1-1: new device\n\
        <0>[   12.345678] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100\n\
        <4>[   12.4] CPU: 0 PID: 1\n";

    #[track_caller]
    fn check(records: &[(&str, &str)], expected: Option<&str>) {
        let pstore = tempfile::tempdir().unwrap();
        for (name, text) in records {
            fs::write(pstore.path().join(name), text).unwrap();
        }
        assert_eq!(last_words(pstore.path()).as_deref(), expected);
        assert_eq!(last_words(pstore.path()), None, "they are told once");
    }

    #[test]
    fn the_last_words_of_a_kernel_are_told_once() {
        let died = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100";
        check(&[], None);
        check(&[("dmesg-ramoops-0", PANIC)], Some(died));
        check(
            &[("dmesg-efi-1", PANIC), ("dmesg-efi-2", "Panic#1 Part2\n")],
            Some(died),
        );
        check(
            &[("dmesg-efi-1", "Oops#1 Part1\n"), ("dmesg-efi-2", PANIC)],
            Some(died),
        );
        check(
            &[("dmesg-efi-1", "Oops#1 Part1\nx\n")],
            Some("Oops#1 Part1"),
        );
        // Every warm restart leaves this one.
        check(&[("console-ramoops-0", PANIC)], None);
        check(&[("dmesg-efi-1", "")], Some("a record that cannot be read"));
        let long = format!(
            "[1] Kernel panic - not syncing: {}\u{1b}\n",
            "é".repeat(500)
        );
        let expected = format!("Kernel panic - not syncing: {}", "?".repeat(68));
        check(&[("dmesg-efi-1", &long)], Some(&expected));
        assert_eq!(last_words(Path::new("/nonexistent")), None);
    }
}
