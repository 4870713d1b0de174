//! A PID 1 with an enemy inside. As /init it starts itself once more, as an ordinary process with all rights, and becomes the
//! real PID 1 (/init.real). The other one waits for the moment that /sabotage names and then does what it says:
//!
//! ```text
//! WHAT WHEN        WHAT: exit | panic | fault | freeze | eat-memory | kill ROLE | stop ROLE
//!                  WHEN: now | file PATH TEXT (once the file has the text)
//! ```
//! `exit`, `panic` and `freeze` at `now` happen before the real PID 1 ever runs; later they are done to it from outside: its code is
//! overwritten in memory, with what exits, faults or turns in a circle. Nothing of the appliance knows about it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::event::{Timespec, poll};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, Signal, getpid, kill_process};

const REAL: &str = "/init.real";
const ORDERS: &str = "/sabotage";
/// The kernel's list of processes, before anybody else has it.
const PROCESSES: &str = "/enemy";
/// How often the moment is looked for: often against the seconds that everything takes here.
const STEP: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};
/// After this it no longer matters, and the test has failed by its own limit.
const PATIENCE: Duration = Duration::from_secs(600);
/// Does nothing: whoever continues anywhere in a row of these arrives at its end.
const NOP: u8 = 0x90;
/// `ud2`: an instruction that no processor knows.
const FAULT: &[u8] = &[0x0f, 0x0b];
/// `jmp` to itself.
const CIRCLE: &[u8] = &[0xeb, 0xfe];
/// `mov eax, 231; mov edi, 101; syscall`: ends the process.
const EXIT: &[u8] = &[
    0xb8, 0xe7, 0, 0, 0, 0xbf, 0x65, 0, 0, 0, 0x0f, 0x05, 0x0f, 0x0b,
];
/// What is taken of the memory at a time.
const BITE: usize = 4 << 20;

fn main() -> ExitCode {
    let orders = fs::read_to_string(ORDERS).unwrap_or_default();
    let words: Vec<&str> = orders.split_whitespace().collect();
    if getpid() != Pid::INIT {
        if let Err(error) = sabotage(&words) {
            say(&format!("sabotage failed: {error}"));
        }
        return ExitCode::SUCCESS;
    }
    match words.as_slice() {
        ["exit", "now"] => return ExitCode::FAILURE,
        ["panic", "now"] => panic!("a successor that panics at once"),
        ["freeze", "now"] => {
            say("sabotage: freeze");
            let _never = poll(&mut [], None);
        }
        _ => {}
    }
    // Its input ends when this process becomes another program.
    let enemy = Command::new("/init").stdin(Stdio::piped()).spawn();
    if let Err(error) = &enemy {
        say(&format!("sabotage failed: {error}"));
    }
    let error = Command::new(REAL).exec();
    say(&format!("{REAL}: {error}"));
    ExitCode::FAILURE
}

fn sabotage(words: &[&str]) -> io::Result<()> {
    let moment = words
        .iter()
        .position(|word| matches!(*word, "now" | "file"));
    let (what, when) = words.split_at(moment.unwrap_or(words.len()));
    let victim = Victim::find()?;
    wait_for(when)?;
    say(&format!("sabotage: {}", what.join(" ")));
    match what {
        ["exit" | "panic"] => victim.overwrite(EXIT),
        ["fault"] => victim.overwrite(FAULT),
        ["freeze"] => victim.overwrite(CIRCLE),
        ["eat-memory"] => eat_memory(),
        ["kill", role] => again_and_again(role, Signal::KILL),
        ["stop", role] => again_and_again(role, Signal::STOP),
        _ => Err(io::Error::other("no such sabotage")),
    }
}

fn wait_for(when: &[&str]) -> io::Result<()> {
    match when {
        ["now"] => Ok(()),
        ["file", path, text] => until(|| {
            let found = fs::read_to_string(path).is_ok_and(|content| content.contains(text));
            Ok(found.then_some(()))
        }),
        _ => Err(io::Error::other("no such moment")),
    }
}

fn until<T>(mut done: impl FnMut() -> io::Result<Option<T>>) -> io::Result<T> {
    let start = std::time::Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(value) = done()? {
            return Ok(value);
        }
        poll(&mut [], Some(&STEP))?;
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// PID 1: its memory and where its code is.
struct Victim {
    memory: File,
    start: u64,
    size: usize,
}

impl Victim {
    /// Waits until PID 1 is the real one and opens its memory: soon nobody may any more, for the real one sees to that.
    fn find() -> io::Result<Self> {
        fs::create_dir_all(PROCESSES)?;
        mount("proc", PROCESSES, "proc", MountFlags::empty(), None)?;
        io::stdin().read_to_end(&mut Vec::new())?;
        let folder = Path::new(PROCESSES).join("1");
        let memory = OpenOptions::new().write(true).open(folder.join("mem"))?;
        let maps = fs::read_to_string(folder.join("maps"))?;
        let is_code = |line: &&str| line.contains(" r-xp ") && line.contains(REAL);
        let line = maps.lines().find(is_code);
        let range = line.and_then(|line| line.split_whitespace().next()?.split_once('-'));
        let (start, end) = range.ok_or_else(|| io::Error::other("PID 1 has no code"))?;
        let number = |text| u64::from_str_radix(text, 16).map_err(io::Error::other);
        let (start, end) = (number(start)?, number(end)?);
        let size = usize::try_from(end - start).map_err(io::Error::other)?;
        Ok(Self {
            memory,
            start,
            size,
        })
    }

    /// Overwrites its code, so that wherever it is, it goes on to `end`.
    fn overwrite(&self, end: &[u8]) -> io::Result<()> {
        let mut code = vec![NOP; self.size];
        code[self.size - end.len()..].copy_from_slice(end);
        self.memory.write_all_at(&code, self.start)
    }
}

/// Takes memory until the machine has none: everybody else may be ended to make room, this process not.
fn eat_memory() -> io::Result<()> {
    fs::write("/proc/self/oom_score_adj", "-1000")?;
    let mut eaten = Vec::new();
    loop {
        eaten.push(vec![0xa5_u8; BITE]);
        // A page that nobody reads could be left out.
        std::hint::black_box(&eaten);
    }
}

/// Signals every process with this role, as soon as it appears, for ever.
fn again_and_again(role: &str, signal: Signal) -> io::Result<()> {
    let mut done = Vec::new();
    until(|| {
        for entry in fs::read_dir("/proc")?.flatten() {
            let number = entry.file_name().to_string_lossy().parse::<i32>().ok();
            let Some(pid) = number.and_then(Pid::from_raw) else {
                continue;
            };
            // One that has ended meanwhile has no command line.
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0);
            let plasmd = words.next().is_some_and(|name| name.ends_with(b"plasmd"));
            let is_role = plasmd && words.next() == Some(role.as_bytes());
            if is_role && !done.contains(&pid) && kill_process(pid, signal).is_ok() {
                done.push(pid);
            }
        }
        Ok(None)
    })
}

fn say(text: &str) {
    let console = OpenOptions::new().write(true).open("/dev/console");
    let line = format!("{text}\n");
    let _ = console.and_then(|mut console: File| console.write_all(line.as_bytes()));
}
