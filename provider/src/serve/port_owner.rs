//! Which process listens on a port, as far as `/proc` tells this user. For messages only.

use std::fs;
use std::path::Path;

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// `process 1234 (nginx)`, when it can be known.
pub(crate) fn find(port: u16, protocol: Protocol) -> Option<String> {
    let tables = match protocol {
        Protocol::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Protocol::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let listening: Vec<String> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| sockets(&table, port, protocol))
        .collect();
    let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
    for process in processes {
        let name = process.file_name();
        let Some(pid) = name
            .to_str()
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        else {
            continue;
        };
        if holds(&process.path(), &listening) {
            let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("process {pid} ({})", command.trim()));
        }
    }
    None
}

fn holds(process: &Path, sockets: &[String]) -> bool {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else {
        return false;
    };
    descriptors
        .filter_map(Result::ok)
        .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
        .any(|target| {
            sockets
                .iter()
                .any(|socket| target.as_os_str() == socket.as_str())
        })
}

/// The sockets that wait on `port`, as `/proc/PID/fd` names them, from a table as in `/proc/net/tcp`.
pub(crate) fn sockets(table: &str, port: u16, protocol: Protocol) -> Vec<String> {
    let waiting = match protocol {
        // TCP_LISTEN.
        Protocol::Tcp => "0A",
        // TCP_CLOSE, which is how the kernel calls a socket without a peer.
        Protocol::Udp => "07",
    };
    let inode = |line: &str| -> Option<String> {
        let fields: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
        let [_, local, _, state, _, _, _, _, _, inode] = fields[..] else {
            return None;
        };
        let local_port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        (state == waiting && local_port == port).then(|| format!("socket:[{inode}]"))
    };
    table.lines().filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inode_of_the_listening_socket() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4243 1 0 20 4 30 10 -1
   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4244 1 0 100 0 0 10 0
";
        assert_eq!(sockets(table, 8080, Protocol::Tcp), ["socket:[4242]"]);
        assert_eq!(sockets(table, 22, Protocol::Tcp), ["socket:[4244]"]);
        assert!(sockets(table, 80, Protocol::Tcp).is_empty());
    }

    #[test]
    fn a_listener_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let owner = find(port, Protocol::Tcp).unwrap();
        assert!(
            owner.starts_with(&format!("process {} (", std::process::id())),
            "{owner}"
        );
    }
}
