//! TCP to addresses that may be dialled, and no others: whatever peers say where other peers are.

use std::pin::Pin;
use std::task::{Context, Poll};

use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent};
use libp2p::{Multiaddr, Transport};

use super::net::{may_dial, split};
use crate::dht::net::multiaddr;

/// A transport that refuses addresses before a socket is made.
pub(super) struct Guarded<T> {
    pub(super) inner: T,
    /// Whether this node's own addresses are on loopback too.
    pub(super) is_loopback_used: bool,
}

impl<T: Transport + Unpin> Transport for Guarded<T> {
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(
        &mut self,
        id: ListenerId,
        address: Multiaddr,
    ) -> Result<(), TransportError<Self::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<Self::Error>> {
        match split(&address) {
            Some((to, _)) if may_dial(&to, self.is_loopback_used) => {
                // From the listening port a second connection between the same two machines is impossible for a minute.
                let port_use = PortUse::New;
                self.inner
                    .dial(multiaddr(to), DialOpts { port_use, ..opts })
            }
            _ => Err(TransportError::MultiaddrNotSupported(address)),
        }
    }

    fn poll(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        Pin::new(&mut self.inner).poll(context)
    }
}
