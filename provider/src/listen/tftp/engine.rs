//! The thread: requests become transfers, packets and silences move them.
//!
//! One owner of all transfers, no locks on the way of a packet. Whatever a client sends costs one look into a table and at most
//! one window. A request that comes again while its file is being opened, or while its client goes on, is one request.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pxe::tftp::limits::REQUEST_SIZE_MAX;
use pxe::tftp::{
    BadRequest, End, ErrorCode, Mode, Options, Request, Session, Step, Terms, clean_name, error,
};
use tokio::runtime::Handle;

use crate::listen::files::{Library, NotServed, Opened};
use crate::listen::limits::{TFTP_PACKET_SIZE_MAX, TFTP_REQUESTS_AT_ONCE, TFTP_TRANSFERS_MAX};
use crate::listen::tftp::places::{self, Place};
use crate::listen::tftp::ports::{Arrived, Port, Ports};
use crate::listen::tftp::transfer::{self, Failed, Route, Transfer};
use crate::listen::tftp::waiting::Waiting;
use crate::listen::tftp::{Mailbox, Teller, Told};
use crate::out;

/// The token of the mailbox; ports have the next ones, transfers follow.
const BELL: u64 = 0;

/// A request whose file is being opened.
#[derive(Debug)]
pub(super) struct Asked {
    port: usize,
    peer: SocketAddr,
    local: Option<IpAddr>,
    name: String,
    options: Options,
    at: Duration,
}

/// What came of it.
pub(super) struct Found {
    asked: Asked,
    opened: Result<Opened, NotServed>,
}

/// Everything the thread has.
pub(super) struct Engine {
    ports: Vec<Port>,
    is_single: bool,
    library: Arc<dyn Library>,
    teller: Teller,
    runtime: Handle,
    mailbox: Arc<Mailbox>,
    waiting: Waiting,
    transfers: HashMap<u64, Transfer>,
    by_peer: HashMap<SocketAddr, u64>,
    opening: HashSet<SocketAddr>,
    next_token: u64,
    /// No transfer has anything to do before.
    next_look: Duration,
    started: Instant,
    room: Vec<u8>,
}

impl Engine {
    pub(super) fn new(
        Ports { ports, is_single }: Ports,
        library: Arc<dyn Library>,
        teller: Teller,
        runtime: Handle,
        mailbox: Arc<Mailbox>,
    ) -> io::Result<Self> {
        let waiting = Waiting::new()?;
        waiting.add(&mailbox.bell, BELL)?;
        let mut next_token = BELL + 1;
        for port in &ports {
            waiting.add(port, next_token)?;
            next_token += 1;
        }
        Ok(Self {
            ports,
            is_single,
            library,
            teller,
            runtime,
            mailbox,
            waiting,
            transfers: HashMap::new(),
            by_peer: HashMap::new(),
            opening: HashSet::new(),
            next_token,
            next_look: Duration::MAX,
            started: Instant::now(),
            room: transfer::room(),
        })
    }

    /// Works until it is over.
    pub(super) fn run(mut self) {
        let mut tokens = Vec::new();
        while !self.mailbox.is_over.load(Ordering::Acquire) {
            let now = self.now();
            let limit = match self.transfers.is_empty() {
                true => None,
                false => Some(self.next_look.saturating_sub(now)),
            };
            let is_busy = !self.transfers.is_empty();
            if let Err(error) = self.waiting.wait(limit, is_busy, &mut tokens) {
                tracing::error!(%error, "TFTP ends: its sockets cannot be watched");
                break;
            }
            for token in &tokens {
                self.ready(*token);
            }
            if self.now() >= self.next_look {
                self.look_at_all();
            }
        }
        for transfer in self.transfers.values() {
            transfer.send_error("the server is stopping", &self.ports);
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn ready(&mut self, token: u64) {
        if token == BELL {
            let mut count = [0; 8];
            // It may have been taken already.
            let _ = rustix::io::read(&self.mailbox.bell, &mut count);
            for found in self.mailbox.take() {
                self.found(found);
            }
            return;
        }
        let index = usize::try_from(token - BELL - 1).unwrap_or(usize::MAX);
        if index < self.ports.len() {
            self.requests(index);
        } else {
            self.packet(token);
        }
    }

    /// A transfer's socket has something.
    fn packet(&mut self, token: u64) {
        let now = self.now();
        let Some(transfer) = self.transfers.get_mut(&token) else {
            return;
        };
        let mut buffer = [0; TFTP_PACKET_SIZE_MAX];
        match transfer.route.receive(&mut buffer) {
            Ok(length) => {
                let packet = buffer.get(..length).unwrap_or_default();
                let step = transfer.session.received(packet, now);
                self.act(token, step);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let end = transfer.session.unreachable();
                self.end(token, end);
            }
            // Nothing after all, or one of the many things routers report.
            Err(_) => {}
        }
    }

    /// A port has something.
    fn requests(&mut self, index: usize) {
        let mut buffer = [0; REQUEST_SIZE_MAX + 1];
        for _ in 0..TFTP_REQUESTS_AT_ONCE {
            let Some(port) = self.ports.get(index) else {
                return;
            };
            match port.receive(&mut buffer) {
                Ok(arrived) => {
                    let packet = buffer.get(..arrived.length).unwrap_or_default();
                    self.request(index, packet, arrived);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // What a router says about an answer of ours; the next packet is behind it.
                Err(_) => {}
            }
        }
    }

    fn request(&mut self, port: usize, packet: &[u8], arrived: Arrived) {
        let Arrived { peer, local, .. } = arrived;
        let now = self.now();
        let known = self.by_peer.get(&peer).copied();
        let request = match (Request::parse(packet), known) {
            (Ok(request), _) => request,
            (Err(BadRequest::Stray), Some(token)) if self.is_single => {
                let Some(transfer) = self.transfers.get_mut(&token) else {
                    return;
                };
                let step = transfer.session.received(packet, now);
                self.act(token, step);
                return;
            }
            (Err(bad), _) => {
                if let Some(answer) = bad.answer().filter(|_| !arrived.is_broadcast) {
                    self.answer(port, peer, local, &answer);
                    self.refused(peer, String::new(), bad.to_string());
                }
                return;
            }
        };
        if arrived.is_broadcast || self.opening.contains(&peer) {
            return;
        }
        let shown = out::printable(&String::from_utf8_lossy(&request.name));
        if let Some(token) = known {
            if let Some(transfer) = self.transfers.get_mut(&token)
                && transfer.name == shown
                && transfer.options == request.options
            {
                if transfer.session.has_nothing() {
                    let step = transfer.session.asked_again(now);
                    self.act(token, step);
                    return;
                }
                if transfer.session.is_going_on(now) {
                    return;
                }
            }
            // The same port for something else, or from the start: what was before is over.
            self.end(token, End::Gone);
        }
        if request.mode == Mode::Netascii {
            let why = "only octet is served";
            self.refuse(port, peer, local, ErrorCode::IllegalOperation, shown, why);
            return;
        }
        let Some(clean) = clean_name(&request.name) else {
            self.refuse(port, peer, local, ErrorCode::NotFound, shown, "not found");
            return;
        };
        if !self.has_place(peer.ip(), now) {
            // The client asks again.
            self.refused(peer, shown, "too many transfers".to_owned());
            return;
        }
        self.opening.insert(peer);
        let asked = Asked {
            port,
            peer,
            local,
            name: shown,
            options: request.options,
            at: now,
        };
        let (library, mailbox) = (Arc::clone(&self.library), Arc::clone(&self.mailbox));
        self.runtime.spawn(async move {
            let opened = library.open(&clean, peer).await;
            mailbox.put(Found { asked, opened });
        });
    }

    /// Whether there is room for one more, made by others if need be.
    fn has_place(&mut self, asking: IpAddr, now: Duration) -> bool {
        if self.transfers.len() + self.opening.len() < TFTP_TRANSFERS_MAX {
            return true;
        }
        let Some(token) = places::given_up(self.places(), asking, now) else {
            return false;
        };
        let why = "its place was needed for other clients";
        if let Some(transfer) = self.transfers.get(&token) {
            transfer.send_error(why, &self.ports);
        }
        self.close(token, |transfer| aborted(transfer, why.to_owned()));
        true
    }

    fn places(&self) -> impl Iterator<Item = Place> + Clone {
        self.transfers.iter().map(|(token, transfer)| Place {
            token: *token,
            client: transfer.peer.ip(),
            began: transfer.began,
            is_unheard: transfer.session.is_unheard(),
        })
    }

    /// A file was opened, or not.
    fn found(&mut self, Found { asked, opened }: Found) {
        self.opening.remove(&asked.peer);
        let (port, peer, local) = (asked.port, asked.peer, asked.local);
        let file = match opened {
            Ok(file) => self.shared(file),
            Err(error) => {
                let code = match error {
                    NotServed::NotFound => ErrorCode::NotFound,
                    NotServed::Unusable(_) => ErrorCode::Undefined,
                };
                self.refuse(port, peer, local, code, asked.name, &error.to_string());
                return;
            }
        };
        let token = self.next_token;
        let began = self.begin(token, asked, file);
        match began {
            Ok(step) => self.act(token, step),
            Err((name, error)) => self.refused(peer, name, error.to_string()),
        }
    }

    /// A new transfer and its first step.
    fn begin(
        &mut self,
        token: u64,
        asked: Asked,
        file: Opened,
    ) -> Result<Step, (String, io::Error)> {
        let Asked {
            port, peer, local, ..
        } = asked;
        let route = match self.is_single {
            true => Ok(Route::Port { index: port, local }),
            false => Route::own(peer, local),
        };
        let mut route = match route {
            Ok(route) => route,
            Err(error) => return Err((asked.name, error)),
        };
        let terms = Terms::agree(&asked.options, file.size(), route.room(peer));
        route.prepare(&terms);
        if let Some(socket) = route.socket()
            && let Err(error) = self.waiting.add(socket, token)
        {
            return Err((asked.name, error));
        }
        self.next_token += 1;
        let size = file.size();
        let (session, step) = Session::start(terms, size, self.now());
        let name = asked.name.clone();
        let transfer = Transfer {
            session,
            name: asked.name,
            options: asked.options,
            file,
            peer,
            route,
            began: asked.at,
        };
        self.by_peer.insert(peer, token);
        self.transfers.insert(token, transfer);
        (self.teller)(peer, &Told::Started { name, size });
        Ok(step)
    }

    /// The same file, from whoever fetches it already: it is open once. Not one that was written to meanwhile: it would never be
    /// sent to its end.
    fn shared(&self, file: Opened) -> Opened {
        let mut others = self.transfers.values().map(|transfer| &transfer.file);
        let other = others.find(|other| other.digest() == file.digest());
        let other = other.filter(|other| matches!(other.is_unchanged(), Ok(true)));
        other.cloned().unwrap_or(file)
    }

    /// Does what a session says.
    fn act(&mut self, token: u64, step: Step) {
        let Some(transfer) = self.transfers.get_mut(&token) else {
            return;
        };
        let done = match step {
            Step::Wait => Ok(()),
            Step::Oack => transfer.send_oack(&self.ports),
            Step::Data(blocks) => transfer.send_blocks(blocks, &mut self.room, &self.ports),
            Step::End(end) => {
                self.end(token, end);
                return;
            }
        };
        self.next_look = self.next_look.min(transfer.session.deadline());
        match done {
            Ok(()) => {}
            Err(Failed::Gone) => {
                let end = transfer.session.unreachable();
                self.end(token, end);
            }
            Err(Failed::File(why)) => {
                transfer.send_error(&why, &self.ports);
                tracing::error!(file = transfer.name, "a boot file cannot be sent: {why}");
                self.close(token, |transfer| aborted(transfer, why));
            }
        }
    }

    /// Sends again what was waited for too long.
    fn look_at_all(&mut self) {
        let now = self.now();
        let late: Vec<u64> = self
            .transfers
            .iter()
            .filter(|(_, transfer)| transfer.session.deadline() <= now)
            .map(|(token, _)| *token)
            .collect();
        self.next_look = Duration::MAX;
        let suspected = places::suspected(self.places());
        for token in late {
            if let Some(transfer) = self.transfers.get_mut(&token) {
                let step = transfer.session.expired(now);
                let is_end = matches!(step, Step::End(_));
                if is_end
                    || !transfer.session.is_unheard()
                    || !suspected.contains(&transfer.peer.ip())
                {
                    self.act(token, step);
                }
            }
        }
        let deadlines = self.transfers.values().map(|it| it.session.deadline());
        self.next_look = deadlines.min().unwrap_or(Duration::MAX);
    }

    fn end(&mut self, token: u64, end: End) {
        let now = self.now();
        self.close(token, |transfer| {
            let name = transfer.name.clone();
            match end {
                End::Sent { .. } => Told::Sent {
                    name,
                    bytes: transfer.file.size(),
                    took: now.saturating_sub(transfer.began),
                    resent: transfer.session.resent_blocks(),
                },
                End::SizeTold => Told::SizeOnly { name },
                End::Aborted { code, text } => {
                    aborted(transfer, format!("the client says: error {code}, {text}"))
                }
                End::Silent => aborted(transfer, "the client says nothing any more".to_owned()),
                End::Gone => aborted(transfer, "the client has closed its port".to_owned()),
            }
        });
    }

    /// Lets go of a transfer and tells what became of it.
    fn close(&mut self, token: u64, told: impl FnOnce(&Transfer) -> Told) {
        if let Some(transfer) = self.transfers.remove(&token) {
            if self.by_peer.get(&transfer.peer) == Some(&token) {
                self.by_peer.remove(&transfer.peer);
            }
            (self.teller)(transfer.peer, &told(&transfer));
        }
    }

    fn refuse(
        &self,
        port: usize,
        peer: SocketAddr,
        local: Option<IpAddr>,
        code: ErrorCode,
        name: String,
        why: &str,
    ) {
        self.answer(port, peer, local, &error(code, why));
        self.refused(peer, name, why.to_owned());
    }

    fn refused(&self, peer: SocketAddr, name: String, why: String) {
        (self.teller)(peer, &Told::Refused { name, why });
    }

    /// One packet to somebody who has no transfer, from a port as a transfer would have.
    fn answer(&self, port: usize, peer: SocketAddr, local: Option<IpAddr>, packet: &[u8]) {
        let route = match self.is_single {
            true => Route::Port { index: port, local },
            false => match Route::own(peer, local) {
                Ok(route) => route,
                Err(_) => Route::Port { index: port, local },
            },
        };
        if let Err(error) = route.send(packet, peer, &self.ports) {
            tracing::debug!(%peer, %error, "a TFTP client could not be answered");
        }
    }
}

fn aborted(transfer: &Transfer, why: String) -> Told {
    Told::Aborted {
        name: transfer.name.clone(),
        bytes: transfer.session.acknowledged_bytes(),
        resent: transfer.session.resent_blocks(),
        why,
    }
}
