//! One connection that is kept, and asked one thing after another: what a client sees without the pauses of a new process.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::provider::{Answer, PATIENCE, Provider};

/// How long after a change every answer has it: the promise is two milliseconds from the change to the request.
const NOTICED: Duration = Duration::from_millis(3);

/// Lets the time pass after which a change must be noticed.
pub(crate) fn notice() {
    std::thread::sleep(NOTICED);
}

/// A client with one connection; it connects again when the provider closed it.
pub(crate) struct Asking {
    address: SocketAddr,
    stream: Option<TcpStream>,
    connections: usize,
}

impl Asking {
    pub(crate) fn new(provider: &Provider) -> Self {
        Self {
            address: provider.address,
            stream: None,
            connections: 0,
        }
    }

    /// Connections it needed so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections
    }

    /// One GET, the path exactly as given.
    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.ask(path, "")
    }

    /// A counter without labels.
    pub(crate) fn metric(&mut self, name: &str) -> u64 {
        let text = self.get("/metrics").text();
        let line = text
            .lines()
            .find(|line| line.split(' ').next() == Some(name));
        line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// One GET with further fields, each with its line end.
    pub(crate) fn ask(&mut self, path: &str, fields: &str) -> Answer {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                self.connections += 1;
                let stream = TcpStream::connect(self.address).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                none.insert(stream)
            }
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        let head = loop {
            let head = bytes.windows(4).position(|end| end == b"\r\n\r\n");
            if let Some(head) = head {
                break head + 4;
            }
            let read = receive(stream, 16 * 1024, &mut bytes);
            assert!(read > 0, "{path}: no answer, or half a head");
        };
        let length: usize = Answer::parse(&bytes[..head])
            .field("content-length")
            .parse()
            .unwrap();
        while bytes.len() < head + length {
            let left = head + length - bytes.len();
            let read = receive(stream, left.min(1 << 20), &mut bytes);
            assert!(read > 0, "{path}: cut with {left} bytes left");
        }
        let answer = Answer::parse(&bytes);
        if answer.field("connection").contains("close") {
            self.stream = None;
        }
        answer
    }
}

fn receive(stream: &mut TcpStream, size: usize, bytes: &mut Vec<u8>) -> usize {
    let filled = bytes.len();
    bytes.resize(filled + size, 0);
    let read = loop {
        // A wait with a limit is not taken up again by itself when the process was stopped meanwhile.
        match stream.read(&mut bytes[filled..]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => break read.unwrap(),
        }
    };
    bytes.truncate(filled + read);
    read
}
