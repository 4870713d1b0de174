//! Conversations of one client with the server, step by step.

use super::*;
use crate::Mac;
use crate::boot::{Offer, Reason};
use crate::client::classify;
use crate::dhcp::{Message, Operation, Options, options};
use crate::limits::{ATTEMPT_GAP, BOOK_MACHINES_MAX};

const VM: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
const PI: Mac = Mac([0xdc, 0xa6, 0x32, 1, 2, 3]);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const UEFI: &str = "PXEClient:Arch:00007:UNDI:003016";
const BIOS: &str = "PXEClient:Arch:00000:UNDI:002001";

/// One server and one client in front of it.
struct Talk {
    book: Book,
    mac: Mac,
    class: &'static str,
    user_class: &'static [u8],
    features: &'static [u8],
    extra: Vec<(u8, Vec<u8>)>,
    giaddr: Ipv4Addr,
    plan: Plan,
    gives_addresses: bool,
    now: Duration,
}

impl Talk {
    fn new(class: &'static str) -> Self {
        Self {
            book: Book::default(),
            mac: VM,
            class,
            user_class: b"",
            features: b"",
            extra: Vec::new(),
            giaddr: Ipv4Addr::UNSPECIFIED,
            plan: Plan::Netboot(Offer {
                tftp_file: Some("boot.file".to_owned()),
                http_url: Some("http://192.0.2.1:8080/phase.efi".to_owned()),
                script_url: Some("http://192.0.2.1:8080/boot.ipxe?mac=x".to_owned()),
                manifest_url: Some("http://192.0.2.1:8080/manifest.json".to_owned()),
                ..Offer::default()
            }),
            gives_addresses: false,
            now: Duration::from_secs(1000),
        }
    }

    fn ipxe(http: bool) -> Self {
        let mut talk = Self::new(BIOS);
        talk.user_class = b"iPXE";
        talk.features = if http { &[0x13, 1, 1] } else { &[0x15, 1, 1] };
        talk
    }

    fn request(&self, kind: Kind) -> Request {
        let mut given = Options::default();
        given.add(options::CLASS, self.class.as_bytes());
        let arch = self.class.split(':').nth(2).unwrap_or("0");
        let arch: u16 = arch.parse().unwrap();
        given.add(options::ARCH, &arch.to_be_bytes());
        if !self.user_class.is_empty() {
            given.add(options::USER_CLASS, self.user_class);
        }
        if !self.features.is_empty() {
            given.add(options::IPXE, self.features);
        }
        for (code, value) in &self.extra {
            given.add(*code, value);
        }
        let ciaddr = match kind {
            Kind::Inform => Ipv4Addr::new(192, 0, 2, 50),
            _ => Ipv4Addr::UNSPECIFIED,
        };
        Request::from_message(Message {
            operation: Operation::Request,
            kind,
            xid: 7,
            hops: 0,
            secs: 0,
            broadcast: true,
            ciaddr,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            siaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: self.giaddr,
            mac: self.mac,
            server_name: None,
            file: None,
            options: given,
        })
        .unwrap()
    }

    fn ask(&mut self, kind: Kind, arrival: Arrival) -> Action {
        let request = self.request(kind);
        let client = classify(&request).unwrap();
        let server = Server {
            address: SERVER,
            http_port: Some(8080),
            gives_addresses: self.gives_addresses,
        };
        let question = Question {
            client: &client,
            request: &request,
            plan: &self.plan,
            server: &server,
            arrival,
        };
        decide(&mut self.book, &question, self.now)
    }

    fn answer(&mut self, kind: Kind, arrival: Arrival) -> (Answer, Message) {
        match self.ask(kind, arrival) {
            Action::Answer(answer) => {
                let message = Message::parse(&answer.reply.encode()).unwrap();
                (answer, message)
            }
            Action::Silence(why) => panic!("silence: {why}"),
        }
    }

    fn discover(&mut self) -> (Answer, Message) {
        self.answer(Kind::Discover, Arrival::Port67)
    }

    /// A DISCOVER that many seconds after the last thing that happened: the strategy it is answered by.
    fn discover_after(&mut self, seconds: u64) -> &'static str {
        self.now += Duration::from_secs(seconds);
        self.discover().0.strategy
    }
}

#[test]
fn a_proxy_offers_no_address_and_echoes_the_class() {
    // C1, C2
    for class in [
        UEFI,
        BIOS,
        "HTTPClient:Arch:00016:UNDI:003016",
        "PhaseClient:Arch:00007",
    ] {
        let (answer, message) = Talk::new(class).discover();
        assert_eq!(message.kind, Kind::Offer);
        assert!(message.yiaddr.is_unspecified());
        let echoed = message.options.text(options::CLASS).unwrap();
        assert!(
            class.starts_with(&echoed) && !echoed.contains(':'),
            "{echoed}"
        );
        assert_eq!(message.server_id(), Some(SERVER));
        assert_eq!(answer.destination, Destination::Broadcast);
    }
}

#[test]
fn uefi_is_sent_to_the_boot_port_first() {
    // C3: no sub-options 6 to 10, so EDK2 asks at 4011; the answer there has the file (C8), in every place (C9).
    let mut talk = Talk::new(UEFI);
    let (answer, message) = talk.discover();
    assert_eq!(answer.strategy, "binl");
    assert_eq!(message.options.get(options::VENDOR), None);
    assert_eq!((message.siaddr, message.boot_file()), (SERVER, None));
    let (answer, message) = talk.answer(Kind::Request, Arrival::Port4011);
    assert_eq!(answer.destination, Destination::Sender);
    assert_eq!(message.kind, Kind::Ack);
    assert_eq!(
        (message.siaddr, message.server_id()),
        (SERVER, Some(SERVER))
    );
    assert_eq!(message.file.as_deref(), Some("boot.file"));
    assert_eq!(
        message.options.text(options::BOOT_FILE).as_deref(),
        Some("boot.file")
    );
    assert_eq!(
        message.options.text(options::CLASS).as_deref(),
        Some("PXEClient")
    );
    assert_eq!(message.options.get(options::VENDOR), None);
}

#[test]
fn a_bios_gets_everything_in_the_offer() {
    // C3, C5
    let (answer, message) = Talk::new(BIOS).discover();
    assert_eq!(answer.strategy, "direct");
    assert_eq!(
        message.options.get(options::VENDOR),
        Some(&[6, 1, 8, 255][..])
    );
    assert_eq!(message.boot_file().as_deref(), Some("boot.file"));
    assert_eq!(message.file.as_deref(), Some("boot.file"));
}

#[test]
fn the_boot_port_answers_requests_and_informs_of_every_architecture() {
    // C6
    for class in [BIOS, UEFI, "PXEClient:Arch:00011:UNDI:003000"] {
        for kind in [Kind::Request, Kind::Inform] {
            let (_, message) = Talk::new(class).answer(kind, Arrival::Port4011);
            assert_eq!(
                message.boot_file().as_deref(),
                Some("boot.file"),
                "{class} {kind:?}"
            );
        }
        let silent = Talk::new(class).ask(Kind::Discover, Arrival::Port4011);
        assert!(matches!(silent, Action::Silence(_)));
    }
}

#[test]
fn the_boot_item_comes_back_as_it_was_sent() {
    // C7
    let mut talk = Talk::new(UEFI);
    talk.extra = vec![(options::VENDOR, vec![71, 4, 0x80, 0, 0, 0, 255])];
    let (_, message) = talk.answer(Kind::Request, Arrival::Port4011);
    assert_eq!(
        message.options.get(options::VENDOR),
        Some(&[71, 4, 0x80, 0, 0, 0, 255][..])
    );
}

#[test]
fn http_boot_is_marked_as_such_and_gets_a_url() {
    // C2, C39
    let (answer, message) = Talk::new("HTTPClient:Arch:00016:UNDI:003016").discover();
    assert_eq!(answer.strategy, "http");
    assert_eq!(
        message.options.text(options::CLASS).as_deref(),
        Some("HTTPClient")
    );
    assert_eq!(
        message.boot_file().as_deref(),
        Some("http://192.0.2.1:8080/phase.efi")
    );
    assert_eq!(message.options.get(options::VENDOR), None);
}

#[test]
fn our_linux_is_told_where_the_manifest_is() {
    let (_, message) = Talk::new("PhaseClient:Arch:00007").discover();
    assert_eq!(
        message.boot_file().as_deref(),
        Some("http://192.0.2.1:8080/manifest.json")
    );
}

#[test]
fn ipxe_gets_its_script_or_our_build_by_full_url() {
    // C13, C14, C15
    let (answer, message) = Talk::ipxe(true).discover();
    assert_eq!(answer.strategy, "script");
    assert_eq!(
        message.boot_file().as_deref(),
        Some("http://192.0.2.1:8080/boot.ipxe?mac=x")
    );
    assert_eq!(
        message.options.get(options::VENDOR),
        Some(&[6, 1, 8, 255][..])
    );
    assert_eq!(message.siaddr, SERVER);
    let (answer, message) = Talk::ipxe(false).discover();
    assert_eq!(answer.strategy, "chain");
    assert_eq!(
        message.boot_file().as_deref(),
        Some("tftp://192.0.2.1/boot.file")
    );
}

#[test]
fn an_ipxe_that_stays_without_http_is_not_chained_for_ever() {
    // C14
    let mut talk = Talk::ipxe(false);
    for _ in 0..2 {
        let (answer, _) = talk.discover();
        assert_eq!(answer.strategy, "chain");
        talk.book.saw_tftp(VM, Transfer::Done, talk.now);
        talk.now += Duration::from_secs(10);
    }
    let Action::Silence(why) = talk.ask(Kind::Discover, Arrival::Port67) else {
        panic!("it is chained again");
    };
    assert!(why.contains("iPXE"), "{why}");
    talk.gives_addresses = true;
    assert_eq!(talk.discover().0.strategy, "address only");
    talk.gives_addresses = false;
    talk.now += ATTEMPT_GAP;
    assert_eq!(
        talk.discover().0.strategy,
        "chain",
        "a new attempt may succeed"
    );
}

#[test]
fn a_raspberry_pi_finds_its_menu_entry() {
    // C55
    let mut talk = Talk::new(BIOS);
    talk.mac = PI;
    let (_, message) = talk.discover();
    let vendor = message.options.get(options::VENDOR).unwrap();
    let entry = [&[9, 20, 0, 0, 17][..], b"Raspberry Pi Boot"].concat();
    assert!(vendor.starts_with(&entry), "{vendor:?}");
    assert_eq!(vendor[entry.len()], 10);
    assert_eq!(
        message.options.text(options::CLASS).as_deref(),
        Some("PXEClient")
    );
}

#[test]
fn nothing_is_offered_that_the_firmware_cannot_start() {
    let mut talk = Talk::new(UEFI);
    talk.plan = Plan::Netboot(Offer::default());
    assert!(matches!(
        talk.ask(Kind::Discover, Arrival::Port67),
        Action::Silence(_)
    ));
    talk.plan = Plan::Silence(Reason::Denied);
    assert_eq!(
        talk.ask(Kind::Discover, Arrival::Port67),
        Action::Silence("denied")
    );
}

#[test]
fn a_proxy_leaves_the_address_to_others() {
    // C20
    let mut talk = Talk::new(UEFI);
    talk.discover();
    assert!(matches!(
        talk.ask(Kind::Request, Arrival::Port67),
        Action::Silence(_)
    ));
    assert!(matches!(
        talk.ask(Kind::Release, Arrival::Port67),
        Action::Silence(_)
    ));
    let (answer, _) = talk.answer(Kind::Inform, Arrival::Port67);
    assert_eq!(
        answer.destination,
        Destination::Unicast(Ipv4Addr::new(192, 0, 2, 50), 68)
    );
}

#[test]
fn a_relay_gets_the_offer() {
    // C18
    let mut talk = Talk::new(UEFI);
    talk.giaddr = Ipv4Addr::new(198, 51, 100, 1);
    talk.extra = vec![(options::RELAY, vec![1, 1, 5])];
    let (answer, message) = talk.discover();
    assert_eq!(answer.destination, Destination::Unicast(talk.giaddr, 67));
    assert_eq!(message.options.get(options::RELAY), Some(&[1, 1, 5][..]));
}

#[test]
fn rungs_of_the_ladder_change_the_style() {
    // C5, C17
    let mut talk = Talk::new(UEFI);
    assert_eq!(talk.discover_after(0), "binl");
    assert_eq!(talk.discover_after(4), "direct");
    assert_eq!(talk.discover_after(8), "menu");
    assert_eq!(talk.discover_after(16), "plain");
    assert_eq!(talk.discover().0.rung, 3);
    assert_eq!(talk.discover_after(32), "binl");
}

#[test]
fn the_same_request_on_two_ways_is_no_rung() {
    let mut talk = Talk::new(UEFI);
    for _ in 0..5 {
        assert_eq!(talk.discover_after(0), "binl");
        talk.now += Duration::from_millis(200);
    }
}

#[test]
fn who_asked_at_the_boot_port_and_fetched_nothing_gets_the_next_style() {
    let mut talk = Talk::new(UEFI);
    talk.discover();
    talk.answer(Kind::Request, Arrival::Port4011);
    assert_eq!(talk.discover_after(10), "direct");
}

#[test]
fn who_takes_the_file_and_stops_twice_gets_the_next_style() {
    let mut talk = Talk::new(BIOS);
    talk.discover();
    talk.book.saw_tftp(VM, Transfer::Begun, talk.now);
    assert_eq!(talk.discover_after(20), "direct");
    talk.book.saw_tftp(VM, Transfer::Begun, talk.now);
    assert_eq!(talk.discover_after(20), "binl");
}

#[test]
fn what_worked_is_remembered_and_kept() {
    // C5
    let mut talk = Talk::new(UEFI);
    talk.discover();
    assert_eq!(talk.discover_after(4), "direct");
    talk.book.saw_tftp(VM, Transfer::Done, talk.now);
    assert_eq!(talk.discover_after(60), "direct");
    assert_eq!(talk.book.rung(VM), 0);
    assert_eq!(
        talk.book.learned().collect::<Vec<_>>(),
        [(VM, Style::Direct)]
    );
    let mut later = Talk::new(UEFI);
    later.book.learn(VM, Style::Direct);
    // The process may have begun a moment before the machine.
    assert_eq!(later.discover_after(30), "direct");
    assert_eq!(later.book.rung(VM), 0);
    assert_eq!(later.discover_after(4), "menu");
    // Switched off and on again: what it took before is the best guess.
    later.now += ATTEMPT_GAP;
    assert_eq!(later.discover_after(0), "direct");
    later.book.forget(VM);
    assert_eq!(later.discover_after(4), "binl");
}

#[test]
fn the_next_program_proves_that_the_first_ran() {
    let mut talk = Talk::new(UEFI);
    talk.discover();
    talk.book.saw_tftp(VM, Transfer::Begun, talk.now);
    talk.class = "PhaseClient:Arch:00007";
    talk.discover_after(20);
    assert_eq!(talk.book.learned_style(VM), Some(Style::Binl));
    talk.class = UEFI;
    assert_eq!(talk.discover_after(60), "binl");
}

#[test]
fn other_firmware_on_the_same_card_begins_anew() {
    let mut talk = Talk::new(UEFI);
    talk.book.learn(VM, Style::Menu);
    talk.class = "PXEClient:Arch:00022:UNDI:003000";
    assert_eq!(talk.discover_after(0), "plain");
}

#[test]
fn a_style_somebody_chose_stays() {
    let mut talk = Talk::new(UEFI);
    if let Plan::Netboot(offer) = &mut talk.plan {
        offer.style = Some(Style::Menu);
        offer.delay = Duration::from_secs(2);
    }
    for _ in 0..5 {
        assert_eq!(talk.discover_after(4), "menu");
    }
    // C16
    assert_eq!(talk.discover().0.after, Duration::from_secs(2));
    let (_, message) = talk.discover();
    let vendor = message.options.get(options::VENDOR).unwrap();
    assert!(
        vendor.starts_with(&[6, 1, 7, 8, 7, 0x80, 0, 1, 192, 0, 2, 1]),
        "{vendor:?}"
    );
}

#[test]
fn as_the_only_dhcp_server_the_file_stands_in_the_lease() {
    // C4, C9: an address with a file ranks above every proxy's offer that names none.
    let mut talk = Talk::new(UEFI);
    talk.gives_addresses = true;
    for (kind, expected) in [(Kind::Discover, Kind::Offer), (Kind::Request, Kind::Ack)] {
        let (answer, message) = talk.answer(kind, Arrival::Port67);
        assert_eq!((answer.strategy, message.kind), ("plain", expected));
        assert_eq!(message.options.get(options::CLASS), None);
        assert_eq!(message.boot_file().as_deref(), Some("boot.file"));
        assert_eq!(message.siaddr, SERVER);
    }
    talk.plan = Plan::Silence(Reason::Denied);
    let (answer, message) = talk.answer(Kind::Request, Arrival::Port67);
    assert_eq!(
        (answer.strategy, message.boot_file()),
        ("address only", None)
    );
}

#[test]
fn ipxe_does_not_wait_for_another_proxy() {
    // C16
    let mut talk = Talk::ipxe(true);
    talk.gives_addresses = true;
    let (_, message) = talk.discover();
    assert_eq!(message.options.get(options::IPXE), Some(&[176, 1, 1][..]));
    talk.gives_addresses = false;
    assert_eq!(talk.discover().1.options.get(options::IPXE), None);
}

#[test]
fn each_firmware_is_sent_to_its_disk_in_its_way() {
    // C53
    let local = |mut talk: Talk| {
        talk.plan = Plan::LocalDisk;
        talk.ask(Kind::Discover, Arrival::Port67)
    };
    let file = |action: Action| match action {
        Action::Answer(answer) => {
            assert_eq!(answer.strategy, "local disk");
            answer.reply.file
        }
        Action::Silence(why) => panic!("{why}"),
    };
    for class in [UEFI, BIOS] {
        let Action::Answer(answer) = local(Talk::new(class)) else {
            panic!("silence");
        };
        let vendor = answer.reply.option(options::VENDOR).unwrap();
        assert!(
            vendor.starts_with(&[6, 1, 7, 9, 23, 0, 0, 20]),
            "{vendor:?}"
        );
        assert_eq!(answer.reply.file, None);
    }
    let http = file(local(Talk::new("HTTPClient:Arch:00016:UNDI:003016"))).unwrap();
    assert_eq!(http, "http://192.0.2.1:8080/boot-local-disk.efi");
    let script = file(local(Talk::ipxe(true))).unwrap();
    assert_eq!(
        script,
        "http://192.0.2.1:8080/boot.ipxe?mac=52-54-00-00-00-01"
    );
    let mut pi = Talk::new(BIOS);
    pi.mac = PI;
    assert!(matches!(local(pi), Action::Silence(_)));
}

#[test]
fn the_book_is_bounded_and_keeps_those_that_booted() {
    let mut talk = Talk::new(UEFI);
    talk.discover();
    talk.book.saw_tftp(VM, Transfer::Done, talk.now);
    for number in 0..u32::try_from(BOOK_MACHINES_MAX).unwrap() + 10 {
        let [a, b, c, d] = number.to_be_bytes();
        talk.mac = Mac([2, 9, a, b, c, d]);
        talk.now += Duration::from_millis(1);
        talk.discover();
    }
    assert_eq!(talk.book.len(), BOOK_MACHINES_MAX);
    assert_eq!(talk.book.learned_style(VM), Some(Style::Binl));
}
