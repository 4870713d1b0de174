//! The table of `tests/data/conformance.txt`: requests as bytes, and the answers that the RFCs ask for. Each is sent to
//! plasmd and to nginx; where nginx answers otherwise, the table says so and why, and that must stay true.

use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::provider::{PATIENCE, Provider, Tree, wait_until};

const TABLE: &str = include_str!("../../data/conformance.txt");
const FILE: &str = "/stable/x86_64/vmlinuz";
const SIZE: usize = 10_000;

fn content() -> Vec<u8> {
    (0..SIZE).map(|at| (at * 7 % 251) as u8).collect()
}

/// One row of the table.
#[derive(Debug, Default)]
struct Row {
    name: String,
    section: String,
    request: String,
    answers: Vec<Expected>,
    is_open: bool,
    /// What nginx does instead: the statuses, whether it stays open; and why.
    nginx: Option<(String, String)>,
}

#[derive(Debug, Default)]
struct Expected {
    status: u16,
    /// Names with their values: exact, `*` for any, `-` for none.
    fields: Vec<(String, String)>,
    body: Option<String>,
}

fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (number, line) in TABLE.lines().enumerate() {
        let bad = || -> ! { panic!("conformance.txt:{}: {line:?}", number + 1) };
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix("== ") {
            let name = name.to_owned();
            rows.push(Row {
                name,
                ..Row::default()
            });
            continue;
        }
        let Some(row) = rows.last_mut() else { bad() };
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        match kind {
            "rfc" => row.section = rest.to_owned(),
            // A line without a backslash at its end is followed by CR LF.
            ">" => match rest.strip_suffix('\\') {
                Some(open) => row.request.push_str(open),
                None => row.request.extend([rest, "\\r\\n"]),
            },
            "<" => match rest.split_once(": ") {
                None => row.answers.push(Expected {
                    status: rest.parse().unwrap_or_else(|_| bad()),
                    ..Expected::default()
                }),
                Some((name, value)) => {
                    let Some(answer) = row.answers.last_mut() else {
                        bad()
                    };
                    answer.fields.push((name.to_owned(), value.to_owned()));
                }
            },
            "body" => match row.answers.last_mut() {
                Some(answer) => answer.body = Some(rest.to_owned()),
                None => bad(),
            },
            "open" => row.is_open = true,
            "closed" => row.is_open = false,
            "nginx" => {
                let (what, why) = rest.split_once(": ").unwrap_or_else(|| bad());
                row.nginx = Some((what.to_owned(), why.to_owned()));
            }
            _ => bad(),
        }
    }
    rows
}

/// A server under test, with its own words for the placeholders of the table.
struct Server {
    address: SocketAddr,
    etag: String,
    modified: String,
}

impl Server {
    fn new(address: SocketAddr) -> Self {
        let mut server = Self {
            address,
            etag: String::new(),
            modified: String::new(),
        };
        let request = format!("HEAD {FILE} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let (answers, _) = server.ask(request.as_bytes());
        let field = |name| answers[0].field(name, false).unwrap_or_default();
        server.etag = field("etag");
        server.modified = field("last-modified");
        server
    }

    fn fill(&self, text: &str) -> String {
        text.replace("{file}", FILE)
            .replace("{etag}", &self.etag)
            .replace("{modified}", &self.modified)
            .replace("{size}", &SIZE.to_string())
    }

    /// The bytes of a row's request.
    fn request(&self, row: &Row) -> Vec<u8> {
        let text = self.fill(&row.request);
        let mut bytes = Vec::new();
        let mut rest = text.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            let escaped = (byte == b'\\').then(|| rest.first()).flatten();
            let Some(escaped) = escaped else {
                bytes.push(byte);
                continue;
            };
            rest = &rest[1..];
            let one = match escaped {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'0' => 0,
                b'*' => {
                    let letter = rest[0];
                    rest = &rest[1..];
                    bytes.extend(std::iter::repeat_n(letter, 8_999));
                    letter
                }
                b'x' => {
                    let digits = std::str::from_utf8(&rest[..2]).unwrap();
                    rest = &rest[2..];
                    u8::from_str_radix(digits, 16).unwrap()
                }
                other => *other,
            };
            bytes.push(one);
        }
        bytes
    }

    /// Sends bytes, and then an ordinary request: the answers to the former, and whether the latter was answered.
    fn ask(&self, request: &[u8]) -> (Vec<Answer>, bool) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        // The server may refuse before it has read everything.
        let _ = stream.write_all(request);
        let is_head = request.starts_with(b"HEAD ");
        let mut input = Input::new(stream);
        let mut answers: Vec<Answer> = input.answer(is_head).into_iter().collect();
        let probe = format!(
            "GET {FILE} HTTP/1.1\r\nHost: x\r\nRange: bytes=4321-4321\r\nConnection: close\r\n\r\n"
        );
        let _ = input.stream.write_all(probe.as_bytes());
        while let Some(answer) = input.answer(is_head) {
            answers.push(answer);
        }
        if !input.held.is_empty() {
            // Bytes that belong to no answer.
            answers.push(Answer {
                status: 0,
                head: String::new(),
                body: input.held,
            });
        }
        let is_open = answers.last().is_some_and(Answer::is_to_probe);
        if is_open {
            answers.pop();
        }
        (answers, is_open)
    }
}

/// What a server sends.
struct Input {
    stream: TcpStream,
    held: Vec<u8>,
    is_ended: bool,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Input {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            held: Vec::new(),
            is_ended: false,
        }
    }

    /// Reads more; false at the end.
    fn more(&mut self) -> bool {
        let mut room = [0; 16 * 1024];
        match self.stream.read(&mut room) {
            Ok(0) => self.is_ended = true,
            Ok(read) => self.held.extend_from_slice(&room[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("no answer, no end"),
            // Closed over what it did not read.
            Err(_) => self.is_ended = true,
        }
        !self.is_ended
    }

    fn answer(&mut self, is_head: bool) -> Option<Answer> {
        let end = loop {
            match find(&self.held, b"\r\n\r\n") {
                Some(at) => break at + 4,
                None if self.more() => {}
                None => return None,
            }
        };
        let head = String::from_utf8_lossy(&self.held[..end]).into_owned();
        self.held.drain(..end);
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        let mut answer = Answer {
            status: status.unwrap_or(0),
            head,
            body: Vec::new(),
        };
        let length = answer.field("content-length", false);
        let length = length.map_or(0, |length| length.parse().unwrap());
        let has_body = !is_head || answer.is_to_probe();
        if has_body && answer.status >= 200 && answer.status != 304 {
            while self.held.len() < length && self.more() {}
            answer.body = self.held.drain(..length.min(self.held.len())).collect();
        }
        Some(answer)
    }
}

impl Answer {
    /// Whether this is the answer to the ordinary request that is sent behind every row.
    fn is_to_probe(&self) -> bool {
        let range = self.field("content-range", false);
        range.is_some_and(|range| range.starts_with("bytes 4321-4321/"))
    }

    fn field(&self, name: &str, exact: bool) -> Option<String> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        let is = |found: &str| found == name || !exact && found.eq_ignore_ascii_case(name);
        let mut found = fields
            .filter(|(found, _)| is(found))
            .map(|(_, value)| value);
        found.next_back().map(str::to_owned)
    }
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// How answers differ from what a row expects; empty when they do not.
fn difference(
    server: &Server,
    row: &Row,
    answers: &[Answer],
    is_open: bool,
    is_ours: bool,
) -> String {
    let mut wrong = String::new();
    if statuses(answers) != expected_statuses(row) || is_open != row.is_open {
        let _ = writeln!(
            wrong,
            "    {} instead of {}",
            summary(answers, is_open),
            summary_of(&expected_statuses(row), row.is_open)
        );
        return wrong;
    }
    for (answer, expected) in answers.iter().zip(&row.answers) {
        for (name, value) in &expected.fields {
            // What each server says in its own way is only looked at in ours.
            if !is_ours && !["Content-Range", "Content-Length", "Allow"].contains(&name.as_str()) {
                continue;
            }
            let found = answer.field(name, is_ours);
            let value = server.fill(value);
            let is_right = match (value.as_str(), &found) {
                ("-", found) => found.is_none(),
                ("*", found) => found.is_some(),
                (value, Some(found)) => found == value,
                (_, None) => false,
            };
            if !is_right {
                let _ = writeln!(wrong, "    {name}: {found:?} instead of {value:?}");
            }
        }
        if let Some(body) = &expected.body
            && !is_body(body, &answer.body)
        {
            let _ = writeln!(
                wrong,
                "    {} body bytes instead of {body}",
                answer.body.len()
            );
        }
        if is_ours && answer.status >= 400 {
            check_refusal(answer, &mut wrong);
        }
    }
    wrong
}

/// Every refusal is a line that says what to do, with its type and length.
fn check_refusal(answer: &Answer, wrong: &mut String) {
    let length = answer.field("Content-Length", true);
    let has_type = answer.field("Content-Type", true).is_some();
    let is_line = answer.body.is_empty() || answer.body.ends_with(b"\n") && answer.body.len() > 10;
    if length.is_none() || !has_type || !is_line {
        let _ = writeln!(
            wrong,
            "    a refusal without type, length or line: {answer:?}"
        );
    }
}

fn is_body(expected: &str, body: &[u8]) -> bool {
    let content = content();
    match expected {
        "whole" => body == content,
        "none" => body.is_empty(),
        // Lines and parts, not looked at further here.
        "parts" => body.len() > 100 && body.len() < SIZE,
        range => {
            let (first, last) = range.split_once('-').unwrap();
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            body == &content[first..=last]
        }
    }
}

fn statuses(answers: &[Answer]) -> Vec<u16> {
    answers.iter().map(|answer| answer.status).collect()
}

fn expected_statuses(row: &Row) -> Vec<u16> {
    row.answers.iter().map(|answer| answer.status).collect()
}

fn summary(answers: &[Answer], is_open: bool) -> String {
    summary_of(&statuses(answers), is_open)
}

/// For example `200 open`.
fn summary_of(statuses: &[u16], is_open: bool) -> String {
    let words: Vec<String> = statuses.iter().map(u16::to_string).collect();
    let state = if is_open { "open" } else { "closed" };
    format!("{} {state}", words.join(" ")).trim().to_owned()
}

fn tree() -> Tree {
    Tree::new(&[
        ("stable/x86_64/vmlinuz", &content()),
        ("stable/x86_64/empty", b""),
    ])
}

#[test]
fn plasmd_answers_as_the_rfcs_say() {
    let tree = tree();
    let provider = Provider::start(tree.root(), &[]);
    let server = Server::new(provider.address);
    let mut wrong = String::new();
    for row in rows() {
        assert!(
            !row.section.is_empty() && !row.answers.is_empty(),
            "{row:?}"
        );
        let (answers, is_open) = server.ask(&server.request(&row));
        let difference = difference(&server, &row, &answers, is_open, true);
        if !difference.is_empty() {
            let _ = write!(wrong, "  {} ({})\n{difference}", row.name, row.section);
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn nginx_answers_as_the_table_says() {
    let test = "nginx_answers_as_the_table_says";
    let tree = tree();
    let Some(nginx) = Nginx::start(test, &tree) else {
        return;
    };
    let server = Server::new(nginx.address);
    let mut wrong = String::new();
    for row in rows() {
        let (answers, is_open) = server.ask(&server.request(&row));
        let difference = difference(&server, &row, &answers, is_open, false);
        let found = summary(&answers, is_open);
        let problem = match &row.nginx {
            None if difference.is_empty() => continue,
            None => format!("the table knows no difference, but there is one:\n{difference}"),
            Some(_) if difference.is_empty() => "the difference is gone\n".to_owned(),
            Some((what, why)) if *what == found && why.len() > 10 => continue,
            Some((what, _)) => format!("{found} instead of {what}\n"),
        };
        let _ = write!(wrong, "  {} ({}): {problem}", row.name, row.section);
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// The short way and the long way of answering differ in nothing but the date. The field that makes the second request
/// take the long way changes nothing in its answer.
#[test]
fn both_ways_give_the_same_bytes() {
    let tree = tree();
    let provider = Provider::start(tree.root(), &[]);
    let server = Server::new(provider.address);
    let without_date = |answer: &Answer| {
        let lines = answer
            .head
            .lines()
            .filter(|line| !line.starts_with("Date: ") && !line.starts_with("X-Request-Id: "));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    for path in [
        FILE,
        "/stable/x86_64/empty",
        "/manifest.json",
        "/stable/x86_64/manifest.json",
    ] {
        for fields in [
            "",
            "Range: bytes=0-0\r\n",
            "Range: bytes=5-99\r\n",
            "Connection: close\r\n",
        ] {
            for method in ["GET", "HEAD"] {
                let ask = |more: &str| {
                    let request =
                        format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{fields}{more}\r\n");
                    let (mut answers, _) = server.ask(request.as_bytes());
                    assert_eq!(answers.len(), 1, "{request}");
                    answers.remove(0)
                };
                let (short, long) = (ask(""), ask("Want-Repr-Digest: sha-256=1\r\n"));
                assert!(short.field("Date", true).is_some());
                assert_eq!(
                    without_date(&short),
                    without_date(&long),
                    "{method} {path} {fields}"
                );
                assert!(short.body == long.body, "{method} {path} {fields}");
            }
        }
    }
}

/// A file's bytes are not sent by what reads requests. What was received behind the request must not get lost, or be read
/// as something else, when the connection goes from one to the other and back.
#[test]
fn what_is_refused_behind_a_large_file_is_refused() {
    let large = vec![3; 5 << 20];
    let tree = Tree::new(&[("stable/x86_64/vmlinuz", &large)]);
    let provider = Provider::start(tree.root(), &[]);
    for field in ["", "Want-Repr-Digest: sha-256=1\r\n"] {
        let mut stream = provider.connect();
        let good = format!("GET {FILE} HTTP/1.1\r\nHost: x\r\n{field}\r\n");
        let bad = format!(
            "GET {FILE} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let hidden = format!("HEAD {FILE} HTTP/1.1\r\nHost: x\r\n\r\n");
        let request = [&good, &good, &bad, &hidden].map(String::as_str).concat();
        stream.write_all(request.as_bytes()).unwrap();
        let mut input = Input::new(stream);
        for _ in 0..2 {
            let answer = input.answer(false).unwrap();
            assert_eq!((answer.status, answer.body == large), (200, true));
        }
        // Later, and still no request.
        let _ = input.stream.write_all(hidden.as_bytes());
        assert_eq!(input.answer(false).unwrap().status, 400, "{field:?}");
        assert!(input.answer(false).is_none(), "{field:?}");
    }
}

/// nginx with the same files, on a free port. Stopped when dropped.
struct Nginx {
    child: Child,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Nginx {
    fn start(test: &str, tree: &Tree) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let (own, root) = (dir.path().display(), tree.root().display());
        let config = format!(
            "daemon off; master_process off; pid {own}/pid; error_log /dev/null; events {{}}
             http {{ access_log off; default_type application/octet-stream; server_tokens off;
             client_body_temp_path {own}/t1; proxy_temp_path {own}/t2; fastcgi_temp_path {own}/t3;
             uwsgi_temp_path {own}/t4; scgi_temp_path {own}/t5;
             server {{ listen {address}; root {root}; }} }}"
        );
        let file = dir.path().join("nginx.conf");
        fs::write(&file, config).unwrap();
        // `cargo appliance test` brings an unpacked one.
        let program = std::env::var_os("PHASE_NGINX").unwrap_or_else(|| "nginx".into());
        let mut command = Command::new(program);
        command.arg("-c").arg(&file).args(["-e", "/dev/null"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                println!("SKIPPED: {test}: nginx cannot be started: {error}");
                return None;
            }
        };
        let nginx = Self {
            child,
            address,
            _dir: dir,
        };
        wait_until("nginx to listen", || TcpStream::connect(address).ok());
        Some(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // A single process: nothing is left behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
