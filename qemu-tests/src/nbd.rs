//! A disk that remembers: a server of the NBD protocol on a Unix socket, which QEMU attaches as a machine's disk, and a log
//! of every write and every flush in the order in which they were answered.
//!
//! One request is answered after the other, so the order is exact: a flush covers the writes before it in the log and none
//! behind it. `power` makes of such a log what a disk with a volatile cache may hold after a power cut. The log belongs to
//! the disk, not to a machine: a machine that is switched off and on again goes on in it.
//!
//! Implemented is what QEMU needs (fixed newstyle handshake, simple replies; read, write, flush, disconnect). It offers no
//! discards and no FUA, for which QEMU sends writes and flushes. It never listens on a network.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::Shutdown;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};

/// The first words of the server: `NBDMAGIC`, `IHAVEOPT`, and what it can do (fixed newstyle, no padding).
const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const HANDSHAKE_FLAGS: u16 = 0b11;
/// Begins every answer to an option.
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Begins every request and every answer.
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

const OPTION_ABORT: u32 = 2;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_UNSUPPORTED: u32 = (1 << 31) | 1;
const INFO_EXPORT: u16 = 0;
/// There are flags, and flushes are understood.
const EXPORT_FLAGS: u16 = 1 | (1 << 2);

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;

/// No option of QEMU's comes near it.
const OPTION_BYTES_MAX: u32 = 64 << 10;
/// What the protocol recommends as the most of one request.
const REQUEST_BYTES_MAX: u32 = 32 << 20;
/// What a log may hold: several images written once each. A machine that writes for ever must not eat the tests' memory.
const LOG_BYTES_MAX: usize = 512 << 20;

/// Errors of the protocol, in numbers of Linux.
const EIO: u32 = 5;
const EINVAL: u32 = 22;

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A write that was acknowledged.
    Write {
        /// Where.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// A flush that was acknowledged: everything before it is durable.
    Flush,
    /// What a test noted (see [`LoggedDisk::mark`]).
    Mark(String),
}

#[derive(Debug)]
struct Shared {
    file: File,
    bytes: u64,
    log: Mutex<Log>,
    /// The connection of the machine that is on, to end it with the server.
    client: Mutex<Option<UnixStream>>,
}

#[derive(Debug, Default)]
struct Log {
    ops: Vec<Op>,
    held: usize,
    stop: bool,
    faults: Vec<(Range<u64>, Fault)>,
}

/// How a disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Every write is an error; reads work.
    WriteError,
    /// So many writes are errors, and then everything works.
    WriteErrors(u32),
    /// No request is ever answered.
    Silence,
}

/// A disk with a log. Dropping it ends its server.
#[derive(Debug)]
pub struct LoggedDisk {
    socket: PathBuf,
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
}

impl LoggedDisk {
    /// Serves the image `file`, which is written to, on a socket beside it. One machine at a time can use it.
    ///
    /// # Errors
    /// When the image cannot be opened or the socket not be made.
    pub fn serve(file: &Path) -> Result<Self> {
        let image = File::options().read(true).write(true).open(file);
        let image = image.with_context(|| format!("open {}", file.display()))?;
        let socket = file.with_extension("nbd");
        let listener = UnixListener::bind(&socket)
            .with_context(|| format!("listen on {}", socket.display()))?;
        let shared = Arc::new(Shared {
            bytes: image.metadata()?.len(),
            file: image,
            log: Mutex::default(),
            client: Mutex::default(),
        });
        let theirs = Arc::clone(&shared);
        let server = thread::spawn(move || theirs.accept(&listener));
        Ok(Self {
            socket,
            shared,
            server: Some(server),
        })
    }

    /// The socket that QEMU connects to.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Notes in the log what just happened.
    pub fn mark(&self, what: impl Into<String>) {
        lock(&self.shared.log).ops.push(Op::Mark(what.into()));
    }

    /// From now on requests that touch `place` fail; those of other places are answered as before.
    pub fn fail(&self, place: Range<u64>, fault: Fault) {
        lock(&self.shared.log).faults.push((place, fault));
    }

    /// The log so far.
    #[must_use]
    pub fn log(&self) -> Vec<Op> {
        lock(&self.shared.log).ops.clone()
    }
}

impl Drop for LoggedDisk {
    fn drop(&mut self) {
        lock(&self.shared.log).stop = true;
        if let Some(client) = lock(&self.shared.client).take() {
            // It may have ended by itself.
            let _ = client.shutdown(Shutdown::Both);
        }
        // Wakes the server, which then sees that it shall stop.
        let woken = UnixStream::connect(&self.socket).is_ok();
        if let Some(server) = self.server.take().filter(|_| woken) {
            // It has nothing to say; a panic in it was printed.
            let _ = server.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn accept(&self, listener: &UnixListener) {
        for stream in listener.incoming().flatten() {
            if lock(&self.log).stop {
                return;
            }
            *lock(&self.client) = stream.try_clone().ok();
            // A machine that is switched off in the middle of a request is what this is for.
            let _ = self.serve(&stream);
            lock(&self.client).take();
        }
    }

    fn serve(&self, stream: &UnixStream) -> io::Result<()> {
        let mut input = BufReader::new(stream);
        let mut output = BufWriter::new(stream);
        if !self.shake_hands(&mut input, &mut output)? {
            return Ok(());
        }
        while self.answer(&mut input, &mut output)? {
            output.flush()?;
        }
        Ok(())
    }

    /// Whether the client wants the disk.
    fn shake_hands(&self, input: &mut impl Read, output: &mut impl Write) -> io::Result<bool> {
        output.write_all(&INIT_MAGIC.to_be_bytes())?;
        output.write_all(&OPTION_MAGIC.to_be_bytes())?;
        output.write_all(&HANDSHAKE_FLAGS.to_be_bytes())?;
        output.flush()?;
        u32_of(input)?;
        loop {
            if u64_of(input)? != OPTION_MAGIC {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let (option, length) = (u32_of(input)?, u32_of(input)?);
            if length > OPTION_BYTES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            io::copy(&mut input.take(length.into()), &mut io::sink())?;
            let mut reply = |kind: u32, body: &[u8]| {
                let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
                output.write_all(&OPTION_REPLY_MAGIC.to_be_bytes())?;
                output.write_all(&option.to_be_bytes())?;
                output.write_all(&kind.to_be_bytes())?;
                output.write_all(&length.to_be_bytes())?;
                output.write_all(body)?;
                output.flush()
            };
            match option {
                OPTION_GO => {
                    let mut export = INFO_EXPORT.to_be_bytes().to_vec();
                    export.extend(self.bytes.to_be_bytes());
                    export.extend(EXPORT_FLAGS.to_be_bytes());
                    reply(REPLY_INFO, &export)?;
                    reply(REPLY_ACK, &[])?;
                    return Ok(true);
                }
                OPTION_ABORT => {
                    reply(REPLY_ACK, &[])?;
                    return Ok(false);
                }
                _ => reply(REPLY_UNSUPPORTED, &[])?,
            }
        }
    }

    /// Answers one request; false after the last.
    fn answer(&self, input: &mut impl Read, output: &mut impl Write) -> io::Result<bool> {
        if u32_of(input)? != REQUEST_MAGIC {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (_flags, kind) = (u16_of(input)?, u16_of(input)?);
        let (cookie, offset, length) = (u64_of(input)?, u64_of(input)?, u32_of(input)?);
        if length > REQUEST_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = vec![
            0;
            if matches!(kind, READ | WRITE) {
                length as usize
            } else {
                0
            }
        ];
        let within = offset
            .checked_add(length.into())
            .is_some_and(|end| end <= self.bytes);
        if kind == WRITE {
            input.read_exact(&mut bytes)?;
        }
        let touched = offset..offset.saturating_add(length.into());
        let fault = self.fault(kind, &touched);
        if fault == Some(Fault::Silence) {
            return Ok(true);
        }
        let error = match kind {
            WRITE if fault.is_some() => EIO,
            READ if within => number(&self.file.read_exact_at(&mut bytes, offset)),
            WRITE if within => self.write(offset, &bytes),
            FLUSH => {
                lock(&self.log).ops.push(Op::Flush);
                0
            }
            DISCONNECT => return Ok(false),
            _ => EINVAL,
        };
        output.write_all(&REPLY_MAGIC.to_be_bytes())?;
        output.write_all(&error.to_be_bytes())?;
        output.write_all(&cookie.to_be_bytes())?;
        if kind == READ && error == 0 {
            output.write_all(&bytes)?;
        }
        Ok(true)
    }

    /// What becomes of a request because of [`LoggedDisk::fail`].
    fn fault(&self, kind: u16, touched: &Range<u64>) -> Option<Fault> {
        let mut log = lock(&self.log);
        let touches = |place: &Range<u64>| place.start < touched.end && touched.start < place.end;
        log.faults.iter_mut().find_map(|(place, fault)| {
            let counts = matches!(kind, READ | WRITE) && touches(place);
            match fault {
                _ if !counts => None,
                Fault::Silence => Some(Fault::Silence),
                _ if kind == READ => None,
                Fault::WriteErrors(0) => None,
                Fault::WriteErrors(left) => {
                    *left -= 1;
                    Some(Fault::WriteError)
                }
                Fault::WriteError => Some(Fault::WriteError),
            }
        })
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> u32 {
        let mut log = lock(&self.log);
        if log.held + bytes.len() > LOG_BYTES_MAX {
            return EIO;
        }
        let written = number(&self.file.write_all_at(bytes, offset));
        if written == 0 {
            log.held += bytes.len();
            log.ops.push(Op::Write {
                offset,
                bytes: bytes.to_vec(),
            });
        }
        written
    }
}

fn number(result: &io::Result<()>) -> u32 {
    if result.is_ok() { 0 } else { EIO }
}

fn u16_of(input: &mut impl Read) -> io::Result<u16> {
    let mut bytes = [0; 2];
    input.read_exact(&mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}

fn u32_of(input: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

fn u64_of(input: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

/// Copies an image; what is zero stays a hole.
///
/// # Errors
/// When it cannot be read or written.
pub fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    const BLOCK_BYTES: usize = 64 << 10;
    let source = File::open(from).with_context(|| format!("open {}", from.display()))?;
    let target = File::create(to).with_context(|| format!("create {}", to.display()))?;
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut block = vec![0; BLOCK_BYTES];
    let mut at = 0;
    while at < length {
        let count = source.read_at(&mut block, at)?;
        ensure!(count > 0, "{} became shorter", from.display());
        if block[..count].iter().any(|byte| *byte != 0) {
            target.write_all_at(&block[..count], at)?;
        }
        at += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that speaks as QEMU does.
    struct Client(UnixStream);

    impl Client {
        fn connect(disk: &LoggedDisk) -> Self {
            let mut stream = UnixStream::connect(disk.socket()).unwrap();
            assert_eq!(u64_of(&mut stream).unwrap(), INIT_MAGIC);
            assert_eq!(u64_of(&mut stream).unwrap(), OPTION_MAGIC);
            assert_eq!(u16_of(&mut stream).unwrap(), HANDSHAKE_FLAGS);
            stream.write_all(&3u32.to_be_bytes()).unwrap();
            let mut client = Self(stream);
            // Structured replies are asked for first, and not to be had.
            assert_eq!(client.option(8, &[]), vec![(REPLY_UNSUPPORTED, vec![])]);
            client
        }

        fn option(&mut self, option: u32, body: &[u8]) -> Vec<(u32, Vec<u8>)> {
            let stream = &mut self.0;
            stream.write_all(&OPTION_MAGIC.to_be_bytes()).unwrap();
            stream.write_all(&option.to_be_bytes()).unwrap();
            let length = u32::try_from(body.len()).unwrap();
            stream.write_all(&length.to_be_bytes()).unwrap();
            stream.write_all(body).unwrap();
            let mut replies = Vec::new();
            loop {
                assert_eq!(u64_of(stream).unwrap(), OPTION_REPLY_MAGIC);
                assert_eq!(u32_of(stream).unwrap(), option);
                let kind = u32_of(stream).unwrap();
                let mut body = vec![0; u32_of(stream).unwrap() as usize];
                stream.read_exact(&mut body).unwrap();
                replies.push((kind, body));
                if kind != REPLY_INFO {
                    return replies;
                }
            }
        }

        fn request(&mut self, kind: u16, offset: u64, length: u32, data: &[u8]) -> (u32, Vec<u8>) {
            let stream = &mut self.0;
            stream.write_all(&REQUEST_MAGIC.to_be_bytes()).unwrap();
            stream.write_all(&[0, 0]).unwrap();
            stream.write_all(&kind.to_be_bytes()).unwrap();
            stream.write_all(&7u64.to_be_bytes()).unwrap();
            stream.write_all(&offset.to_be_bytes()).unwrap();
            stream.write_all(&length.to_be_bytes()).unwrap();
            stream.write_all(data).unwrap();
            assert_eq!(u32_of(stream).unwrap(), REPLY_MAGIC);
            let error = u32_of(stream).unwrap();
            assert_eq!(u64_of(stream).unwrap(), 7);
            let mut bytes = vec![
                0;
                if kind == READ && error == 0 {
                    length as usize
                } else {
                    0
                }
            ];
            stream.read_exact(&mut bytes).unwrap();
            (error, bytes)
        }
    }

    fn disk(bytes: u64) -> (tempfile::TempDir, LoggedDisk) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("disk.img");
        File::create(&file).unwrap().set_len(bytes).unwrap();
        let disk = LoggedDisk::serve(&file).unwrap();
        (folder, disk)
    }

    #[test]
    fn writes_and_flushes_are_kept_in_their_order_over_several_connections() {
        let (_folder, disk) = disk(1 << 20);
        let mut client = Client::connect(&disk);
        let replies = client.option(OPTION_GO, &[0, 0, 0, 0, 0, 0]);
        let mut export = vec![0, 0];
        export.extend((1u64 << 20).to_be_bytes());
        export.extend([0, 0b101]);
        assert_eq!(replies, [(REPLY_INFO, export), (REPLY_ACK, vec![])]);
        assert_eq!(client.request(WRITE, 512, 3, b"abc").0, 0);
        assert_eq!(client.request(FLUSH, 0, 0, b"").0, 0);
        assert_eq!(client.request(READ, 511, 5, b"").1, b"\0abc\0");
        drop(client);
        disk.mark("off and on again");
        let mut client = Client::connect(&disk);
        client.option(OPTION_GO, &[0, 0, 0, 0, 0, 0]);
        assert_eq!(client.request(WRITE, 513, 1, b"x").0, 0);
        assert_eq!(client.request(READ, 512, 3, b"").1, b"axc");
        let write = |offset, bytes: &[u8]| Op::Write {
            offset,
            bytes: bytes.to_vec(),
        };
        let mark = Op::Mark("off and on again".into());
        let expected = [write(512, b"abc"), Op::Flush, mark, write(513, b"x")];
        assert_eq!(disk.log(), expected);
    }

    #[test]
    fn what_is_not_on_the_disk_or_not_understood_is_refused() {
        let (_folder, disk) = disk(4096);
        let mut client = Client::connect(&disk);
        client.option(OPTION_GO, &[0, 0, 0, 0, 0, 0]);
        for (kind, offset, length) in [(READ, 4095, 2), (READ, u64::MAX, 1), (4, 0, 512)] {
            assert_eq!(client.request(kind, offset, length, b"").0, EINVAL);
        }
        assert_eq!(client.request(WRITE, 4096, 1, b"x").0, EINVAL);
        assert_eq!(disk.log(), []);
    }

    #[test]
    fn a_copy_has_the_bytes_and_the_holes() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let file = File::create(&from).unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(b"here", 5_000_000).unwrap();
        copy_sparse(&from, &to).unwrap();
        assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap());
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20);
    }
}
