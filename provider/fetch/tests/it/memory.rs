//! How much memory a download takes, whatever the size of the file and of its chunks.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::process::Command;
use std::sync::Mutex;

use boot_manifest::{Artifact, ChunkCheck, ChunkMap, Digest, sign};

use super::*;
use crate::server::send;

const MIB: u64 = 1 << 20;

/// 64 GiB of zeros, in chunks of 64 MiB.
const SIZE: u64 = 64 << 30;

/// Chunks that the server gives before it has no more.
const CHUNKS: usize = 3;

/// Keeps nothing but the verdicts.
struct Verdicts(Artifact, Mutex<Vec<usize>>);

impl fetch::Sink for Verdicts {
    type Chunk<'a> = Verdict<'a>;
    fn missing(&self) -> Vec<usize> {
        (0..self.0.chunks.chunk_count()).collect()
    }
    fn chunk(&self, index: usize) -> Result<Verdict<'_>, fetch::SinkError> {
        Ok(Verdict(self, index, self.0.chunks.check(index)))
    }
}

struct Verdict<'a>(&'a Verdicts, usize, ChunkCheck);

impl fetch::SinkChunk for Verdict<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), fetch::SinkError> {
        self.2.update(bytes);
        Ok(())
    }
    fn finish(self) -> Result<(), fetch::SinkError> {
        self.2
            .finish()
            .map_err(|computed| fetch::SinkError::WrongBytes { computed })?;
        self.0.1.lock().unwrap().push(self.1);
        Ok(())
    }
}

/// Says that this process is the one that is measured.
const CHILD: &str = "PHASE_FETCH_TEST_CHILD";

/// Memory is counted per process, so the download has one of its own.
#[test]
fn large_chunks_do_not_pass_through_memory() {
    if std::env::var_os(CHILD).is_some() {
        return measure();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "memory::large_chunks_do_not_pass_through_memory",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(text.contains("the download used"), "{text}");
}

fn measure() {
    let zeros = vec![0; 64 << 20];
    let chunk = Digest::of(&zeros);
    drop(zeros);
    let image = Image::new();
    let template = verified(&image);
    let artifact = Artifact {
        name: "kernel".parse().unwrap(),
        filename: "vmlinuz".parse().unwrap(),
        size: SIZE,
        // Nobody will ever see all of it.
        digest: chunk,
        chunks: ChunkMap::new(SIZE, vec![chunk; 1024]).unwrap(),
    };
    let mut manifest = (*template).clone();
    manifest.artifacts = vec![artifact.clone()];
    let bytes = sign(&manifest, &[&image.key]).unwrap();
    let manifest = boot_manifest::verify(&bytes, &image.root(), &expect()).unwrap();
    let server = Server::start(move |_, stream| {
        send(
            stream,
            format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"),
        );
        let piece = [0; 256 << 10];
        for _ in 0..(CHUNKS as u64 * 64 * MIB + 7) / piece.len() as u64 {
            send(stream, piece);
        }
        Then::Close
    });
    // What was used until here, the zeros above included, does not count.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmHWM:");
    let sink = Arc::new(Verdicts(artifact, Mutex::default()));
    let sources = Providers(vec![url(&server.url("/manifest.json"))]);
    let once = Limits {
        retries: 0,
        ..limits()
    };
    let error = block_on(async {
        Fetcher::new(once)
            .artifact(&manifest, "kernel", &sources, Arc::clone(&sink), |_| {})
            .await
            .map(|_| ())
            .unwrap_err()
    });
    assert_eq!(error.code(), "cut-short", "{error}");
    assert_eq!(*sink.1.lock().unwrap(), [0, 1, 2]);
    let used = memory("VmHWM:") - before;
    println!("the download used {used} KiB");
    // 4 MiB wait at most, and the read buffers; the test server's piece is in it too.
    assert!(used < 12 << 10, "{used} KiB for chunks of 64 MiB");
}

fn memory(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}
