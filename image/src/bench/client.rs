//! The clients that measure: curl, wrk, and what they say, understood.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::limits::{CLIENT_LIMIT, LOOK_PERIOD};
use super::process;

/// Runs a client to its end and returns what it printed.
///
/// # Errors
/// When it cannot be started, fails, or takes longer than any client should.
pub fn run(command: &mut Command) -> Result<String> {
    let (output, _) = run_watched(command)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// As [`run`], and the most memory it had.
///
/// # Errors
/// As [`run`].
pub fn run_watched(command: &mut Command) -> Result<(Output, u64)> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let deadline = Instant::now() + CLIENT_LIMIT;
    let mut peak = 0;
    // What a client says fits into a pipe.
    while child.try_wait()?.is_none() {
        peak = peak.max(process::peak_bytes(child.id()));
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            bail!("{command:?} took longer than {} s", CLIENT_LIMIT.as_secs());
        }
        std::thread::sleep(LOOK_PERIOD);
    }
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{command:?} failed ({}): {} {}",
        output.status,
        String::from_utf8_lossy(&output.stdout).trim(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok((output, peak))
}

/// What wrk measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wrk {
    /// Requests a second.
    pub requests: f64,
    /// Bytes a second.
    pub bytes: f64,
    /// Seconds that half of the answers took at most.
    pub p50: f64,
    /// Seconds that 99 of 100 answers took at most.
    pub p99: f64,
}

impl Wrk {
    /// Reads wrk's report, which must tell of no error.
    ///
    /// # Errors
    /// When a figure is missing, or answers were missing or wrong.
    pub fn parse(report: &str) -> Result<Self> {
        for trouble in ["Non-2xx", "Socket errors"] {
            if let Some(line) = report.lines().find(|line| line.contains(trouble)) {
                bail!("wrk: {}", line.trim());
            }
        }
        let figure = |name: &str| {
            let line = report
                .lines()
                .find_map(|line| line.trim().strip_prefix(name));
            line.map(str::trim)
                .with_context(|| format!("wrk does not say {name:?}: {report}"))
        };
        Ok(Self {
            requests: figure("Requests/sec:")?.parse()?,
            bytes: bytes(figure("Transfer/sec:")?).context("wrk's rate")?,
            p50: seconds(figure("50%")?).context("wrk's median")?,
            p99: seconds(figure("99%")?).context("wrk's 99th percentile")?,
        })
    }
}

/// `2.50GB` in bytes: wrk's units are powers of 1024.
fn bytes(text: &str) -> Option<f64> {
    let text = text.strip_suffix('B')?;
    let (number, factor) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 1024.0),
        b'M' => (&text[..text.len() - 1], 1024.0 * 1024.0),
        b'G' => (&text[..text.len() - 1], 1024.0 * 1024.0 * 1024.0),
        _ => (text, 1.0),
    };
    number.parse::<f64>().ok().map(|number| number * factor)
}

/// `812.00us`, `1.20ms`, `2.00s`, `1.50m` in seconds.
fn seconds(text: &str) -> Option<f64> {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0)];
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    number.parse::<f64>().ok().map(|number| number * factor)
}

/// What one download by curl took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Download {
    /// Bytes of the body.
    pub bytes: u64,
    /// From the first byte of the request to the last of the answer.
    pub took: Duration,
}

/// What curl is asked to print after each download.
pub const CURL_FORMAT: &str = "%{http_code} %{size_download} %{time_total}\\n";

impl Download {
    /// Reads the lines of [`CURL_FORMAT`], one a download; all must have ended well.
    ///
    /// # Errors
    /// When curl says something else.
    pub fn parse_all(said: &str) -> Result<Vec<Self>> {
        said.lines()
            .map(|line| {
                let words: Vec<&str> = line.split(' ').collect();
                let ["200" | "206", bytes, seconds] = words[..] else {
                    bail!("curl says {line:?}");
                };
                let took = seconds
                    .parse()
                    .ok()
                    .and_then(|s| Duration::try_from_secs_f64(s).ok());
                Ok(Self {
                    bytes: bytes.parse().context("curl's size")?,
                    took: took.context("curl's time")?,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What wrk 4.1.0 prints with --latency.
    const REPORT: &str = "Running 2s test @ http://127.0.0.1:18080/stable/x86_64/vmlinuz\n  1 threads and 64 connections\n  \
        Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency     1.01ms  640.62us  11.08ms   88.76%\n    \
        Req/Sec    65.45k     4.81k   71.57k    80.00%\n  Latency Distribution\n     50%    0.92ms\n     75%    1.07ms\n     \
        90%    1.53ms\n     99%    3.87ms\n  130216 requests in 2.00s, 532.46MB read\nRequests/sec:  65053.42\n\
        Transfer/sec:    266.01MB\n";

    #[test]
    fn wrks_report_is_understood() {
        let wrk = Wrk::parse(REPORT).unwrap();
        let expected = Wrk {
            requests: 65053.42,
            bytes: 266.01 * 1024.0 * 1024.0,
            p50: 0.92e-3,
            p99: 3.87e-3,
        };
        assert_eq!(wrk, expected);
    }

    #[test]
    fn wrks_troubles_are_errors() {
        for trouble in [
            "  Non-2xx or 3xx responses: 7",
            "  Socket errors: connect 0, read 3, write 0, timeout 0",
        ] {
            let report = REPORT.replace("Requests/sec", &format!("{trouble}\nRequests/sec"));
            assert!(Wrk::parse(&report).is_err(), "{trouble}");
        }
        assert!(Wrk::parse("").is_err());
        assert!(Wrk::parse(&REPORT.replace("99%", "98%")).is_err());
    }

    #[test]
    fn wrks_units_are_understood() {
        assert_eq!(bytes("2.50GB"), Some(2.5 * 1_073_741_824.0));
        assert_eq!(bytes("0.00B"), Some(0.0));
        assert_eq!(bytes("much"), None);
        assert_eq!(seconds("812.00us"), Some(812.0 * 1e-6));
        assert_eq!(seconds("1.50m"), Some(90.0));
        assert_eq!(seconds("2.00s"), Some(2.0));
        assert_eq!(seconds("2.00"), None);
    }

    #[test]
    fn curls_lines_are_understood() {
        let downloads = Download::parse_all("200 4096 0.000512\n206 100 1.5\n").unwrap();
        let expected = Download {
            bytes: 4096,
            took: Duration::from_micros(512),
        };
        assert_eq!((downloads[0], downloads[1].bytes), (expected, 100));
        for wrong in [
            "404 9 0.1\n",
            "000 0 0.0\n",
            "200 4096\n",
            "200 x 0.1\n",
            "200 1 -1\n",
        ] {
            assert!(Download::parse_all(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_client_that_fails_says_why() {
        let error = run(Command::new("sh").args(["-c", "echo reason >&2; exit 3"])).unwrap_err();
        assert!(error.to_string().contains("reason"), "{error}");
        let (output, peak) =
            run_watched(Command::new("sh").args(["-c", "sleep 0.05; echo done"])).unwrap();
        assert!(output.stdout == b"done\n" && peak > 100_000);
    }
}
