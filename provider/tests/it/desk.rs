//! A desk for the client tools: their names, a key to trust, files, and servers to ask.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use boot_manifest::Timestamp;
use serde_json::Value;

use crate::provider::PLASMD;

#[path = "../../fetch/tests/it/image.rs"]
pub(crate) mod image;
#[path = "../../fetch/tests/it/server.rs"]
#[expect(
    dead_code,
    reason = "shared with the tests of fetch, which look at more"
)]
pub(crate) mod server;

use image::Image;
use server::{Server, Then, answer, file};

/// A directory with the tools under their own names, a trusted key, and room for files.
pub(crate) struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    pub(crate) fn new(image: &Image) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["phase-fetch", "phase-verify"] {
            symlink(PLASMD, dir.path().join(name)).expect("a link");
        }
        let desk = Self { dir };
        fs::write(desk.path("key.pub"), image.key.public().to_pem()).expect("a file");
        fs::write(desk.path("trust-root.json"), image.root().to_json()).expect("a file");
        desk
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A tool, started in this directory.
    pub(crate) fn tool(&self, name: &str, flags: &[&str]) -> Command {
        let mut command = Command::new(self.path(name));
        command
            .args(flags)
            .current_dir(self.dir.path())
            .env_remove("RUST_LOG")
            .env_remove("JOURNAL_STREAM");
        // The machine's own proxies do not know the servers of a test.
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            command
                .env_remove(name)
                .env_remove(name.to_ascii_uppercase());
        }
        command
    }

    pub(crate) fn fetch(&self, flags: &[&str]) -> Ended {
        Ended::of(&self.tool("phase-fetch", flags).output().expect("it starts"))
    }
}

/// What a tool said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// An image signed a minute ago.
pub(crate) fn fresh_image() -> Image {
    Image::of(days_ago(0), Image::new().files)
}

/// A minute and some days before now.
pub(crate) fn days_ago(days: i64) -> Timestamp {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970")
        .as_secs();
    Timestamp::from_unix(i64::try_from(now).expect("a clock before 9999") - 60 - days * 86_400)
}

/// A server that has the image, except where `special` answers instead.
pub(crate) fn provider(
    image: &Arc<Image>,
    special: impl Fn(&server::Request, &mut TcpStream, &[u8]) -> Option<Then> + Send + Sync + 'static,
) -> Server {
    let image = Arc::clone(image);
    Server::start(move |request, stream| {
        let bytes = image.at(&request.target);
        if let Some(then) = special(request, stream, bytes.unwrap_or_default()) {
            return then;
        }
        match bytes {
            Some(bytes) => file(request, stream, bytes),
            None => answer(stream, "404 Not Found", "", b""),
        }
    })
}
