//! The answers themselves: one function for each kind of firmware, on a base that all share.

use std::net::Ipv4Addr;

use super::{Arrival, Question, vendor};
use crate::boot::{Offer, Style};
use crate::client::{Firmware, HTTP_CLASS, PHASE_CLASS, PXE_CLASS};
use crate::dhcp::{Kind, Reply, options};
use crate::ipxe;

/// iPXE's own option 176 in option 175: do not wait for another proxy's offer.
const IPXE_NO_PROXY: [u8; 3] = [176, 1, 1];

/// The name of an EFI program that is not there: UEFI gives up on it at once, where silence costs it a minute (C53).
const NO_SUCH_PROGRAM: &str = "boot-local-disk.efi";

/// What every answer to this request has, whoever asked.
pub(super) struct Base<'a> {
    reply: Reply,
    question: &'a Question<'a>,
}

type Made = Result<(Reply, &'static str), &'static str>;

impl<'a> Base<'a> {
    pub(super) fn new(question: &'a Question<'a>, kind: Kind) -> Self {
        Self {
            reply: Reply::to(question.request, kind, question.server.address),
            question,
        }
    }

    /// Whether the answer brings an address too.
    fn grants(&self) -> bool {
        self.question.server.gives_addresses && self.question.arrival == Arrival::Port67
    }

    /// An answer without anything to boot, where we are the client's DHCP server.
    pub(super) fn lease_only(&self) -> Option<Reply> {
        self.grants().then(|| self.reply.clone())
    }

    /// The answer that boots this client.
    pub(super) fn netboot(&self, offer: &Offer, style: Style) -> Made {
        let nothing = "nothing here that it can start";
        match self.question.client.firmware {
            Firmware::BiosPxe | Firmware::UefiPxe | Firmware::UBoot => {
                let file = offer.tftp_file.as_deref().ok_or(nothing)?;
                Ok((self.pxe(file, style), style.name()))
            }
            Firmware::UefiHttp => {
                let url = offer.http_url.as_deref().ok_or(nothing)?;
                Ok((self.classed(HTTP_CLASS, url), "http"))
            }
            Firmware::Ipxe { http, .. } => {
                let script = offer.script_url.as_deref().filter(|_| http);
                let file = script.or(offer.tftp_file.as_deref()).ok_or(nothing)?;
                let strategy = if script.is_some() { "script" } else { "chain" };
                Ok((self.ipxe(file), strategy))
            }
            Firmware::RaspberryPi => {
                let file = offer.tftp_file.as_deref().ok_or(nothing)?;
                let reply = self.classed(PXE_CLASS, file);
                let reply = reply.with(options::VENDOR, vendor::raspberry_pi());
                Ok((self.tftp_name(reply), "raspberry-pi"))
            }
            Firmware::Phase => {
                let url = offer.manifest_url.as_deref().ok_or(nothing)?;
                Ok((self.classed(PHASE_CLASS, url), "hint"))
            }
        }
    }

    /// The answer that makes this client go on with its own disk (C53).
    pub(super) fn local_disk(&self) -> Made {
        let silent = "it is to boot from its own disk, and its firmware has no word for that";
        match self.question.client.firmware {
            Firmware::BiosPxe | Firmware::UefiPxe => {
                let reply = self.reply.clone().with(options::CLASS, PXE_CLASS);
                let mut reply = reply.with(options::VENDOR, vendor::local_disk());
                reply.siaddr = self.address();
                Ok((reply, "local disk"))
            }
            Firmware::UefiHttp => {
                let url = self.url(NO_SUCH_PROGRAM).ok_or(silent)?;
                Ok((self.classed(HTTP_CLASS, &url), "local disk"))
            }
            Firmware::Ipxe { http: true, .. } => {
                let script = ipxe::script_path(self.question.client.mac);
                let url = self.url(&script).ok_or(silent)?;
                Ok((self.ipxe(&url), "local disk"))
            }
            Firmware::Ipxe { http: false, .. }
            | Firmware::UBoot
            | Firmware::RaspberryPi
            | Firmware::Phase => Err(silent),
        }
    }

    fn address(&self) -> Ipv4Addr {
        self.question.server.address
    }

    fn url(&self, path: &str) -> Option<String> {
        let port = self.question.server.http_port?;
        Some(format!("http://{}:{port}/{path}", self.address()))
    }

    /// Server, file and the same class the client has (C2), in all places (C9).
    fn classed(&self, class: &str, file: &str) -> Reply {
        let mut reply = self.reply.clone().with(options::CLASS, class);
        reply.siaddr = self.address();
        reply.file = Some(file.to_owned());
        reply
    }

    /// PXE in one of its styles. At port 4011 there is only the answer itself, with the item the client chose (C7, C8).
    fn pxe(&self, file: &str, style: Style) -> Reply {
        if self.question.arrival == Arrival::Port4011 || self.question.request.kind == Kind::Inform
        {
            let reply = self.tftp_name(self.classed(PXE_CLASS, file));
            return match &self.question.request.boot_item {
                Some(item) => reply.with(options::VENDOR, vendor::boot_item(item)),
                None => reply,
            };
        }
        let mut reply = match style {
            Style::Direct => self
                .classed(PXE_CLASS, file)
                .with(options::VENDOR, vendor::direct()),
            Style::Menu => self
                .classed(PXE_CLASS, file)
                .with(options::VENDOR, vendor::menu(self.address())),
            Style::Binl => self.classed(PXE_CLASS, file),
            Style::Plain => self.unclassed(file),
        };
        if style == Style::Binl {
            // The file is asked for at port 4011; named here already, some ROMs would take it without asking the address
            // server, and others would ask twice.
            reply.file = None;
            return reply;
        }
        self.tftp_name(reply)
    }

    /// As a plain DHCP server names a file. A proxy's offer without the class would be no offer at all.
    fn unclassed(&self, file: &str) -> Reply {
        let mut reply = self.classed(PXE_CLASS, file);
        if self.grants() {
            reply.options.retain(|(code, _)| *code != options::CLASS);
        }
        reply
    }

    /// iPXE takes a URL where a file is named, and a full one only when it is told to use this very file (C15).
    fn ipxe(&self, file: &str) -> Reply {
        let class = match &self.question.request.class {
            Some(class) if class.starts_with(HTTP_CLASS) => HTTP_CLASS,
            _ => PXE_CLASS,
        };
        let mut file = file.to_owned();
        if !file.contains("://") {
            file = format!("tftp://{}/{file}", self.address());
        }
        let reply = self.classed(class, &file);
        let reply = reply.with(options::VENDOR, vendor::direct());
        if self.grants() {
            reply.with(options::IPXE, IPXE_NO_PROXY)
        } else {
            reply
        }
    }

    /// The server's address as text, for those who read nothing else.
    fn tftp_name(&self, reply: Reply) -> Reply {
        reply.with(options::TFTP_SERVER, self.address().to_string())
    }
}
