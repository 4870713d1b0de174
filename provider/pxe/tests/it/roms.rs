//! Every model of ROM in front of the strategy engine: it must boot within one walk up its ladder, and the next time at
//! once, because what it took was remembered.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use pxe::Mac;
use pxe::boot::{Offer, Plan};
use pxe::client::classify;
use pxe::dhcp::{Message, Request};
use pxe::rom::{End, Model, Rom, Sent};
use pxe::strategy::{Action, Arrival, Book, Question, Server, Transfer, decide};

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 50);
const MAC: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);

/// A server of which nothing but the engine is real.
struct Engine {
    book: Book,
    plan: Plan,
    gives_addresses: bool,
}

impl Engine {
    fn new(gives_addresses: bool) -> Self {
        Self {
            book: Book::default(),
            plan: Plan::Netboot(Offer {
                tftp_file: Some("stable/x86_64/boot".to_owned()),
                http_url: Some("http://192.0.2.1/phase.efi".to_owned()),
                script_url: Some("http://192.0.2.1/boot.ipxe".to_owned()),
                ..Offer::default()
            }),
            gives_addresses,
        }
    }

    fn answer(&mut self, sent: &Sent, now: Duration) -> Option<Message> {
        let request = Request::parse(&sent.bytes).unwrap();
        let client = classify(&request).unwrap();
        let server = Server {
            address: SERVER,
            http_port: Some(80),
            gives_addresses: self.gives_addresses,
        };
        let question = Question {
            client: &client,
            request: &request,
            plan: &self.plan,
            server: &server,
            arrival: match sent.port {
                67 => Arrival::Port67,
                _ => Arrival::Port4011,
            },
        };
        let Action::Answer(mut answer) = decide(&mut self.book, &question, now) else {
            return None;
        };
        if self.gives_addresses && sent.port == 67 {
            answer.reply.yiaddr = CLIENT;
        }
        Some(Message::parse(&answer.reply.encode()).unwrap())
    }

    /// Switches the ROM on, and lets it go on until it ends; its file is sent to the end.
    fn boot(&mut self, rom: &mut Rom, start: Duration) -> (End, Duration) {
        let mut now = start;
        let mut sent = Some(rom.start(now));
        loop {
            while let Some(question) = sent.take() {
                if let Some(message) = self.answer(&question, now) {
                    sent = rom.received(&message, now);
                }
            }
            if let Some(end) = rom.end() {
                if matches!(end, End::Boots { .. }) {
                    self.book.saw_tftp(MAC, Transfer::Done, now);
                }
                return (end.clone(), now - start);
            }
            now = rom.deadline();
            sent = rom.expired(now);
        }
    }
}

#[test]
fn every_rom_boots_and_the_second_time_at_once() {
    // C3 to C7, C17: seconds until it knows its file, the first time and after that.
    let mut table = String::new();
    for gives_addresses in [false, true] {
        for model in Model::ALL {
            let mut engine = Engine::new(gives_addresses);
            let mut rom = Rom::new(model, MAC, 7, CLIENT);
            if gives_addresses {
                rom = rom.without_address();
            }
            let (first, took) = engine.boot(&mut rom.clone(), Duration::from_secs(10));
            let (again, later) = engine.boot(&mut rom, Duration::from_secs(1000));
            assert!(
                matches!(first, End::Boots { server: SERVER, .. }),
                "{model:?}: {first:?}"
            );
            assert_eq!(first, again, "{model:?}");
            let mode = if gives_addresses { "server" } else { "proxy" };
            let _ = writeln!(
                table,
                "{mode} {model:?} {} {}",
                took.as_secs(),
                later.as_secs()
            );
        }
    }
    assert_eq!(
        table,
        "proxy Edk2 4 4
proxy OldEdk2 4 4
proxy Edk2Http 4 4
proxy Bios 4 4
proxy DirectBios 4 4
proxy BinlBios 12 4
proxy MenuBios 28 4
proxy Ipxe 4 4
server Edk2 4 4
server OldEdk2 4 4
server Edk2Http 4 4
server Bios 4 4
server DirectBios 4 4
server BinlBios 12 4
server MenuBios 60 4
server Ipxe 4 4
"
    );
}

#[test]
fn uefi_finds_its_disk_as_soon_as_offers_are_looked_at() {
    // C53: where silence would cost it the whole ladder.
    let mut engine = Engine::new(false);
    engine.plan = Plan::LocalDisk;
    let mut rom = Rom::new(Model::Edk2, MAC, 7, CLIENT);
    let (end, took) = engine.boot(&mut rom, Duration::ZERO);
    assert_eq!((end, took), (End::LocalDisk, Duration::from_secs(4)));
}

#[test]
fn a_rom_without_an_answer_gives_up_after_its_ladder() {
    let mut rom = Rom::new(Model::Edk2, MAC, 7, CLIENT);
    let mut now = Duration::ZERO;
    let mut questions = vec![now];
    rom.start(now);
    while rom.end().is_none() {
        now = rom.deadline();
        questions.extend(rom.expired(now).map(|_| now));
    }
    assert_eq!(questions, [0, 4, 12, 28].map(Duration::from_secs));
    assert_eq!(
        (rom.end(), now),
        (Some(&End::Failed), Duration::from_secs(60))
    );
}
