//! Tells the provider how far the boot of this machine came, for people who watch it there, and that it serves the same image
//! now, for machines that multicast does not lead here.
//!
//! `stage` tells of its own part; the machine that came out of it has its init start this as a role of its own, so that
//! `serve` need not be able to connect to anything.
//!
//! One `POST /boot/report?mac=..&stage=..&ago=..` without a body for each stage. The provider shows it and believes it for
//! nothing else; here nothing waits for it longer than [`REPORT_TIME`], and no boot fails because of it. Then, of a machine that
//! gives to others, one `POST /peers?manifest=..&port=..&complete=true`: the provider lists it for some minutes, and whoever is
//! told of it verifies what it gives as ever.

use std::io;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use boot_manifest::Digest;
use fetch::Url;
use swarm::peers::Question;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::exit::{CommandError, Exit};

/// One report, from the connection to the answer. A provider on the same LAN answers within milliseconds.
const REPORT_TIME: Duration = Duration::from_secs(3);

/// `HTTP/1.1 204` and a little: the rest of the answer is not read.
const STATUS_SIZE: usize = 12;

/// What is told of a failure: a code and a few words.
const TEXT_CHARS_MAX: usize = 120;

/// Older stages are told as this old: a provider takes no others.
pub(crate) const AGO_MAX: Duration = Duration::from_secs(60 * 60);

/// Attempts to tell of a stage. The first may be made before the switch forwards anything.
const ATTEMPTS_MAX: u32 = 5;

/// Between two attempts.
const ATTEMPT_PAUSE: Duration = Duration::from_secs(2);

/// The flags of the role.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The provider this machine booted from
    #[arg(long, value_name = "URL")]
    to: Url,

    /// A stage that was reached, and after how many milliseconds of this machine's uptime; can be given several times
    #[arg(long, value_name = "NAME=MS", required = true, value_parser = reached)]
    stage: Vec<(String, Duration)>,

    /// The manifest of what this machine serves, to be on the provider's list of those who have it
    #[arg(long, value_name = "DIGEST", requires = "port")]
    manifest: Option<Digest>,

    /// The HTTP port where this machine serves it
    #[arg(long, value_name = "PORT", requires = "manifest")]
    port: Option<NonZeroU16>,
}

impl Args {
    /// What the provider is told so that others find this machine.
    fn registration(&self) -> Option<Question> {
        let (manifest, port) = (self.manifest?, self.port);
        let complete = true;
        port.is_some().then_some(Question {
            manifest,
            port,
            complete,
        })
    }
}

/// One `--stage`.
fn reached(text: &str) -> Result<(String, Duration), &'static str> {
    let (name, millis) = text.split_once('=').ok_or("expected NAME=MS")?;
    let fine = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase());
    let millis = millis
        .parse()
        .map_err(|_| "MS is a number of milliseconds")?;
    match fine {
        true => Ok((name.to_owned(), Duration::from_millis(millis))),
        false => Err("a stage is a word of small letters"),
    }
}

/// Runs the role: tells of each stage in turn, registers this machine, and ends.
pub(crate) fn run(args: &Args) -> Result<Exit, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::local(format!("the runtime cannot be started: {error}")))?;
    for (name, at) in &args.stage {
        let told = runtime.block_on(patiently(async || {
            let stage = Stage {
                ago: uptime().saturating_sub(*at).min(AGO_MAX),
                ..Stage::now(name)
            };
            tell(&args.to, &stage).await
        }));
        told.map_err(|error| {
            CommandError::failed(format!("{} was not told of {name}: {error}", args.to))
        })?;
    }
    if let Some(registration) = args.registration() {
        let registered =
            runtime.block_on(patiently(async || register(&args.to, &registration).await));
        registered.map_err(|error| {
            CommandError::failed(format!("{} does not list this machine: {error}", args.to))
        })?;
    }
    Ok(Exit::Done)
}

/// Says something again until it is heard; one that is heard and refused is not said again.
async fn patiently(mut say: impl AsyncFnMut() -> io::Result<()>) -> io::Result<()> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match say().await {
            Err(error) if error.kind() != io::ErrorKind::Other && attempts < ATTEMPTS_MAX => {
                tracing::debug!(%error, "the provider was not told yet");
                tokio::time::sleep(ATTEMPT_PAUSE).await;
            }
            result => return result,
        }
    }
}

/// How long this kernel runs.
pub(crate) fn uptime() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(time).unwrap_or_default()
}

/// One stage of a boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stage {
    /// Its name: `linux`, `manifest`, `fetched`, `mounted`, `serving`, `failed`.
    pub(crate) name: String,
    /// How long ago it was reached.
    pub(crate) ago: Duration,
    /// Why, of a failure.
    pub(crate) text: Option<String>,
}

impl Stage {
    /// A stage that was reached just now.
    pub(crate) fn now(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ago: Duration::ZERO,
            text: None,
        }
    }

    /// A failure, just now.
    pub(crate) fn failed(text: &str) -> Self {
        Self {
            text: Some(text.to_owned()),
            ..Self::now("failed")
        }
    }
}

/// Tells `provider` of one stage.
///
/// # Errors
/// When it cannot be reached, does not know reports, or takes too long.
pub(crate) async fn tell(provider: &Url, stage: &Stage) -> io::Result<()> {
    tokio::time::timeout(REPORT_TIME, exchange(provider, stage))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn exchange(provider: &Url, stage: &Stage) -> io::Result<()> {
    let connection = TcpStream::connect((provider.host(), provider.port())).await?;
    // The address the provider sees tells which of several cards leads there: its MAC is the one that booted.
    let mac = mac_of(connection.local_addr()?.ip())?;
    let head = request(&provider.host_header(), &target(&mac, stage));
    ask(connection, &head).await
}

/// Has `provider` list this machine: under the address that this connection comes from, which is where others reach it.
async fn register(provider: &Url, registration: &Question) -> io::Result<()> {
    let exchange = async {
        let connection = TcpStream::connect((provider.host(), provider.port())).await?;
        let target = format!("/peers?{registration}");
        ask(connection, &request(&provider.host_header(), &target)).await
    };
    tokio::time::timeout(REPORT_TIME, exchange)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Sends a request, and reads whether it succeeded.
async fn ask(mut connection: TcpStream, head: &str) -> io::Result<()> {
    connection.write_all(head.as_bytes()).await?;
    let mut status = [0; STATUS_SIZE];
    connection.read_exact(&mut status).await?;
    match &status[9..] {
        [b'2', ..] => Ok(()),
        other => Err(io::Error::other(format!(
            "it answers {}",
            String::from_utf8_lossy(other)
        ))),
    }
}

fn request(host: &str, target: &str) -> String {
    format!(
        "POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

fn target(mac: &str, stage: &Stage) -> String {
    let Stage { name, ago, text } = stage;
    let ago = ago.as_millis();
    let text = text.as_ref().map_or_else(String::new, |text| {
        let text: String = text.chars().take(TEXT_CHARS_MAX).collect();
        format!("&text={}", encoded(&text))
    });
    format!("/boot/report?mac={mac}&stage={name}&ago={ago}{text}")
}

/// Percent-encoded: letters, digits and a few marks stand for themselves.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encode = |byte: u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// The hardware address of the interface that has this address.
pub(crate) fn mac_of(address: IpAddr) -> io::Result<String> {
    let interfaces = if_addrs::get_if_addrs()?;
    let interface = interfaces.iter().find(|found| found.ip() == address);
    let name = interface.map(|found| found.name.as_str());
    let name = name.ok_or_else(|| io::Error::other("no interface has our address"))?;
    let mac = std::fs::read_to_string(format!("/sys/class/net/{name}/address"))?;
    Ok(mac.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_report_is_one_line_without_a_body() {
        let stage = Stage {
            name: "failed".to_owned(),
            ago: Duration::from_millis(1_250),
            text: Some("bad-hash: \"kernel\"\r\nX: y ü".to_owned()),
        };
        let head = request("10.0.0.1:8080", &target("02:00:00:00:00:01", &stage));
        assert_eq!(
            head,
            "POST /boot/report?mac=02:00:00:00:00:01&stage=failed&ago=1250\
             &text=bad-hash%3A%20%22kernel%22%0D%0AX%3A%20y%20%C3%BC HTTP/1.1\r\n\
             Host: 10.0.0.1:8080\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let long = Stage::failed(&"x".repeat(1000));
        assert!(request("h", &target("m", &long)).len() < 300);
    }

    #[test]
    fn a_stage_is_a_word_and_a_time() {
        let fine = reached("mounted=1250").unwrap();
        assert_eq!(fine, ("mounted".to_owned(), Duration::from_millis(1_250)));
        for bad in [
            "",
            "mounted",
            "=1",
            "Mounted=1",
            "a&b=1",
            "mounted=-1",
            "mounted=1.5",
        ] {
            assert!(reached(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn the_status_decides() {
        for (answer, fine) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 404 Not Found\r\n\r\n", false),
            ("HTTP", false),
            ("", false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let url: Url = url.parse().unwrap();
            let server = async {
                let (mut connection, _) = listener.accept().await.unwrap();
                let mut head = [0; 512];
                let _head = connection.read(&mut head).await.unwrap();
                connection.write_all(answer.as_bytes()).await.unwrap();
            };
            let stage = Stage::now("serving");
            let (told, ()) = tokio::join!(tell(&url, &stage), server);
            assert_eq!(told.is_ok(), fine, "{answer:?}: {told:?}");
        }
    }
}
