//! `cargo appliance boots`, which people never type: boot ROMs by the thousand, switched on at the same moment, in a process
//! of their own where the clients are. Some of them go on and fetch what they were told.
//!
//! ```text
//! every DISCOVER at once ─▶ offers ─▶ second questions ─▶ answers ─▶ `--fetch` of them: TFTP, then HTTP ─▶ one line of JSON
//! ```

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pxe::Mac;
use pxe::dhcp::{CLIENT_PORT, Kind, Message};
use pxe::rom::{End, Model, Rom, Sent};
use serde::{Deserialize, Serialize};

use super::asker::Asker;
use super::limits::{BOOTS_BUFFER_BYTES, BOOTS_LIMIT};
use super::tftp_get;

/// What the machines are: both kinds of PCs there are, as all boot servers know them.
const MODELS: [Model; 2] = [Model::Edk2, Model::Bios];

/// A datagram of a boot server is never longer.
const DATAGRAM: usize = 2048;

/// `cargo appliance boots`
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How many machines
    #[arg(long)]
    pub machines: u32,
    /// The address all of them have
    #[arg(long)]
    pub address: Ipv4Addr,
    /// How many of them fetch what they were told
    #[arg(long, default_value_t = 0)]
    pub fetch: usize,
    /// The folder with the files that are served, to compare; servers spell their paths in their own ways
    #[arg(long)]
    pub files: PathBuf,
    /// Where they go on by HTTP, and for what
    #[arg(long, requires = "path")]
    pub http: Option<SocketAddr>,
    /// The path there
    #[arg(long, requires = "http")]
    pub path: Option<String>,
}

/// What became of them. Times in seconds.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Told {
    /// From each first question to its first answer, in order of length.
    pub offers: Vec<f64>,
    /// From each question at port 4011 to its answer, in order of length.
    pub answers: Vec<f64>,
    /// Machines whose first question had no answer before they asked again.
    pub unanswered: usize,
    /// Machines that were not told what to boot.
    pub lost: usize,
    /// How long those that fetch took by TFTP, until the last had all of it.
    pub tftp: Option<f64>,
    /// And by HTTP.
    pub http: Option<f64>,
    /// Fetches that failed.
    pub failed: usize,
    /// Why the first of them did.
    pub reason: String,
}

impl Told {
    /// The time that `part` of all stay under.
    pub fn quantile(times: &[f64], part: f64) -> Option<f64> {
        let rank = (times.len() as f64 * part).ceil() as usize;
        times
            .get(rank.saturating_sub(1).min(times.len().saturating_sub(1)))
            .copied()
    }
}

/// Runs the command.
///
/// # Errors
/// When the port of DHCP clients cannot be had or standard output is closed.
pub fn command(arguments: &Arguments) -> Result<ExitCode> {
    let mut crowd = Crowd::new(arguments)?;
    crowd.run()?;
    let mut told = crowd.told();
    let ends: Vec<(Ipv4Addr, String)> = crowd.ends().take(arguments.fetch).collect();
    ensure!(
        ends.len() == arguments.fetch || told.lost > 0,
        "more machines shall fetch than there are"
    );
    if arguments.fetch > 0 {
        fetch(arguments, &ends, &mut told);
    }
    println!("{}", serde_json::to_string(&told)?);
    Ok(ExitCode::SUCCESS)
}

/// One machine, and when it asked and was answered.
struct Machine {
    rom: Rom,
    asked: Duration,
    offered: Option<Duration>,
    asked_again: bool,
    second: Option<Duration>,
    answered: Option<Duration>,
}

struct Crowd {
    socket: UdpSocket,
    begun: Instant,
    machines: BTreeMap<u32, Machine>,
    waiting: usize,
}

impl Crowd {
    fn new(arguments: &Arguments) -> Result<Self> {
        let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT);
        let socket = UdpSocket::bind(address).context("the port of DHCP clients")?;
        socket.set_broadcast(true)?;
        // A thousand answers at once must not be lost here; without the right to ask for so much, less has to do.
        let forced =
            rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, BOOTS_BUFFER_BYTES);
        if forced.is_err() {
            rustix::net::sockopt::set_socket_recv_buffer_size(&socket, BOOTS_BUFFER_BYTES)?;
        }
        let machines = (0..arguments.machines).zip(MODELS.into_iter().cycle());
        let machines = machines.map(|(number, model)| {
            let [_, b, c, d] = number.to_be_bytes();
            let mac = Mac([0x52, 0x54, 2, b, c, d]);
            let rom = Rom::new(model, mac, number, arguments.address).hasty();
            let machine = Machine {
                rom,
                asked: Duration::ZERO,
                offered: None,
                asked_again: false,
                second: None,
                answered: None,
            };
            (number, machine)
        });
        let machines: BTreeMap<u32, Machine> = machines.collect();
        Ok(Self {
            socket,
            begun: Instant::now(),
            waiting: machines.len(),
            machines,
        })
    }

    /// Switches all on and goes on until all have ended, or none of it gets further.
    fn run(&mut self) -> Result<()> {
        self.begun = Instant::now();
        let numbers: Vec<u32> = self.machines.keys().copied().collect();
        self.socket.set_nonblocking(true)?;
        for number in numbers {
            let now = self.begun.elapsed();
            if let Some(machine) = self.machines.get_mut(&number) {
                machine.asked = now;
                let sent = machine.rom.start(now);
                send(&self.socket, &sent)?;
            }
            // What came meanwhile is looked at at once: its time counts.
            while self.receive()? {}
        }
        self.socket.set_nonblocking(false)?;
        while self.waiting > 0 && self.begun.elapsed() < BOOTS_LIMIT {
            let waiting = self.machines.values().filter(|one| one.rom.end().is_none());
            let next = waiting.map(|one| one.rom.deadline()).min();
            let left = next
                .unwrap_or_default()
                .saturating_sub(self.begun.elapsed());
            self.socket
                .set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            if !self.receive()? {
                self.expire()?;
            }
        }
        Ok(())
    }

    /// Takes one answer, if there is one.
    fn receive(&mut self) -> Result<bool> {
        let mut buffer = [0; DATAGRAM];
        let length = match self.socket.recv_from(&mut buffer) {
            Ok((length, _)) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(false);
            }
            Err(error) => return Err(error).context("receive"),
        };
        let now = self.begun.elapsed();
        let Ok(message) = Message::parse(&buffer[..length]) else {
            return Ok(true);
        };
        let Some(machine) = self.machines.get_mut(&message.xid) else {
            return Ok(true);
        };
        if message.kind == Kind::Offer {
            machine.offered.get_or_insert(now);
        } else if machine.second.is_some() {
            machine.answered.get_or_insert(now);
        }
        let had_ended = machine.rom.end().is_some();
        let sent = machine.rom.received(&message, now);
        if let Some(sent) = sent {
            machine.second.get_or_insert(now);
            send(&self.socket, &sent)?;
        }
        if !had_ended && machine.rom.end().is_some() {
            self.waiting -= 1;
        }
        Ok(true)
    }

    /// Lets those ask again whose time is over.
    fn expire(&mut self) -> Result<()> {
        let now = self.begun.elapsed();
        for machine in self.machines.values_mut() {
            if machine.rom.end().is_some() || machine.rom.deadline() > now {
                continue;
            }
            machine.asked_again |= machine.offered.is_none();
            if let Some(sent) = machine.rom.expired(now) {
                send(&self.socket, &sent)?;
            }
            if machine.rom.end().is_some() {
                self.waiting -= 1;
            }
        }
        Ok(())
    }

    fn told(&self) -> Told {
        let all = || self.machines.values();
        let at_once = all().filter(|one| !one.asked_again);
        let offers = at_once.filter_map(|one| Some((one.offered? - one.asked).as_secs_f64()));
        let answers = all().filter_map(|one| Some((one.answered? - one.second?).as_secs_f64()));
        let boots = |one: &&Machine| matches!(one.rom.end(), Some(End::Boots { .. }));
        Told {
            offers: sorted(offers),
            answers: sorted(answers),
            unanswered: all()
                .filter(|one| one.asked_again || one.offered.is_none())
                .count(),
            lost: self.machines.len() - all().filter(boots).count(),
            ..Told::default()
        }
    }

    /// What those that boot were told, over all models in turn.
    fn ends(&self) -> impl Iterator<Item = (Ipv4Addr, String)> {
        self.machines
            .values()
            .filter_map(|one| match one.rom.end() {
                Some(End::Boots { server, file }) => Some((*server, file.clone())),
                _ => None,
            })
    }
}

fn sorted(times: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    times
}

fn send(socket: &UdpSocket, sent: &Sent) -> Result<()> {
    let to = SocketAddrV4::new(sent.to, sent.port);
    socket.send_to(&sent.bytes, to).context("send")?;
    Ok(())
}

/// All at once: the boot file by TFTP, each byte compared, and when the last has it, one file by HTTP.
fn fetch(arguments: &Arguments, ends: &[(Ipv4Addr, String)], told: &mut Told) {
    let begun = Instant::now();
    let results = at_once(ends, |(server, file)| {
        let name = Path::new(file).file_name().context("no file is named")?;
        let wanted = std::fs::read(arguments.files.join(name))
            .with_context(|| format!("{file} is offered, but not there"))?;
        let got = tftp_get::get(*server, file)?;
        ensure!(got == wanted, "{file} came with other bytes");
        Ok(())
    });
    told.tftp = Some(begun.elapsed().as_secs_f64());
    told.note(results);
    let (Some(server), Some(path)) = (arguments.http, &arguments.path) else {
        return;
    };
    let begun = Instant::now();
    let results = at_once(ends, |_| Asker::to(server)?.get(path, None).map(drop));
    told.http = Some(begun.elapsed().as_secs_f64());
    told.note(results);
}

impl Told {
    fn note(&mut self, results: Vec<Result<()>>) {
        for error in results.into_iter().filter_map(Result::err) {
            self.failed += 1;
            if self.reason.is_empty() {
                self.reason = format!("{error:#}");
            }
        }
    }
}

/// Does something for each, all in the same time.
fn at_once<T: Sync>(all: &[T], what: impl Fn(&T) -> Result<()> + Sync) -> Vec<Result<()>> {
    let what = &what;
    std::thread::scope(|scope| {
        let threads: Vec<_> = all
            .iter()
            .map(|one| scope.spawn(move || what(one)))
            .collect();
        let joined = threads.into_iter().map(|thread| {
            let ended = thread.join();
            ended.unwrap_or_else(|_| Err(anyhow::anyhow!("a client panicked")))
        });
        joined.collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_occurred() {
        let times: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(Told::quantile(&times, 0.99), Some(198.0));
        assert_eq!(Told::quantile(&times, 0.5), Some(100.0));
        assert_eq!(Told::quantile(&[3.0], 0.99), Some(3.0));
        assert_eq!(Told::quantile(&[], 0.99), None);
    }

    #[test]
    fn failures_are_counted_and_the_first_is_told() {
        let mut told = Told::default();
        let odd = |number: &u32| {
            ensure!(number.is_multiple_of(2), "{number} is odd");
            Ok(())
        };
        told.note(at_once(&[2, 3, 4, 5], odd));
        assert_eq!((told.failed, told.reason.as_str()), (2, "3 is odd"));
    }
}
