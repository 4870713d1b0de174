//! TCP to addresses that may be dialled, and no others: whatever peers say where other peers are.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportError, TransportEvent};
use libp2p::{Multiaddr, Transport};

use super::net::{may_dial, multiaddr, split};

/// A transport that refuses addresses before a socket is made.
pub(super) struct Guarded<T> {
    pub(super) inner: T,
    /// Whether this node or one it begins with is on loopback; it may become so while it runs.
    pub(super) is_loopback_used: Arc<AtomicBool>,
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
        let is_loopback_used = self.is_loopback_used.load(Ordering::Relaxed);
        match split(&address) {
            Some((to, _)) if may_dial(&to, is_loopback_used) => {
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
