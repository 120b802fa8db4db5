//! What a client says is looked at for as long as it could change whom it speaks to.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;

use super::{Stop, lane::Lane};
use crate::peek::{Client, Conversation, Fault, Hold, Server, TlsGuard};

/// Looks at what a client says. Each has the bytes that it has already released.
#[derive(Debug)]
pub(crate) enum Guard {
    /// Nothing is looked at any more.
    Opaque(Vec<u8>),
    /// TLS, of which another hello may follow.
    Tls(TlsGuard, Vec<u8>),
    /// HTTP, every request of it.
    Http(Box<Conversation>, Vec<u8>),
    /// HTTP of a run that learns: everything goes on, and what would not have is noted.
    Overheard(Box<Conversation>, Vec<u8>, Arc<AtomicBool>),
}

/// Carries both directions until both have ended.
pub(super) async fn carry(
    guard: Guard,
    mut out: Lane<'_>,
    mut back: Lane<'_>,
    server_done: &AtomicBool,
) -> Result<(), Stop> {
    match guard {
        Guard::Opaque(released) => {
            let out = async {
                out.write(&released).await?;
                drop(released);
                out.move_all().await?;
                out.finish()?;
                Ok::<_, Stop>(())
            };
            tokio::try_join!(out, to_end(back, server_done))?;
        }
        Guard::Tls(guard, released) => {
            let out = async {
                out.write(&released).await?;
                drop(released);
                watch_tls(guard, &mut out).await?;
                out.finish()?;
                Ok::<_, Stop>(())
            };
            tokio::try_join!(out, to_end(back, server_done))?;
        }
        Guard::Http(conversation, released) => {
            let shared = Shared {
                conversation: Mutex::new(*conversation),
                changed: Notify::new(),
                ended: AtomicBool::new(false),
            };
            let out = async {
                out.write(&released).await?;
                drop(released);
                shared.client(&mut out).await?;
                out.finish()?;
                Ok::<_, Stop>(())
            };
            let back = async {
                shared.server(&mut back).await?;
                shared.ended.store(true, Ordering::Relaxed);
                shared.changed.notify_one();
                end(&back, server_done)?;
                Ok(())
            };
            tokio::try_join!(out, back)?;
        }
        Guard::Overheard(conversation, released, amiss) => {
            let heard = Overheard {
                conversation: Mutex::new(*conversation),
                amiss,
            };
            let out = async {
                out.write(&released).await?;
                drop(released);
                heard.client(&mut out).await?;
                out.finish()?;
                Ok::<_, Stop>(())
            };
            let back = async {
                heard.server(&mut back).await?;
                end(&back, server_done)?;
                Ok(())
            };
            tokio::try_join!(out, back)?;
        }
    }
    Ok(())
}

/// A conversation that goes on whatever it is about.
struct Overheard {
    conversation: Mutex<Conversation>,
    /// Something was said that a check would not have let through.
    amiss: Arc<AtomicBool>,
}

impl Overheard {
    fn with<T>(&self, use_it: impl FnOnce(&mut Conversation) -> T) -> T {
        use_it(
            &mut self
                .conversation
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Whether listening on is of use.
    fn note(&self, heard: Result<(), Fault>) -> bool {
        if heard.is_err() {
            self.amiss.store(true, Ordering::Relaxed);
        }
        !self.amiss.load(Ordering::Relaxed)
    }

    async fn client(&self, out: &mut Lane<'_>) -> Result<(), Stop> {
        let mut ignored = Vec::new();
        loop {
            // What waited for an answer of the server's may be looked at now.
            let waited = self.with(|it| it.feed(&[], &mut ignored));
            ignored.clear();
            let of_use = self.note(waited);
            match self.with(|it| it.client()) {
                _ if !of_use => return Ok(out.move_all().await?),
                Client::Opaque => return Ok(out.move_all().await?),
                Client::Pass(most) => {
                    let moved = out.move_some(most).await?;
                    if moved == 0 {
                        return Ok(());
                    }
                    self.with(|it| it.passed(moved));
                }
                // Nobody has to wait here.
                Client::Read | Client::Wait => {
                    let said = out.read().await?;
                    if said.is_empty() {
                        return Ok(());
                    }
                    let heard = self.with(|it| it.feed(&said, &mut ignored));
                    ignored.clear();
                    self.note(heard);
                    out.write(&said).await?;
                }
            }
        }
    }

    async fn server(&self, back: &mut Lane<'_>) -> Result<(), Stop> {
        loop {
            match self.with(|it| it.server()) {
                _ if self.amiss.load(Ordering::Relaxed) => return Ok(back.move_all().await?),
                Server::Opaque => return Ok(back.move_all().await?),
                Server::Pass(most) => {
                    let moved = back.move_some(most).await?;
                    if moved == 0 {
                        return Ok(());
                    }
                    self.with(|it| it.answered(moved));
                }
                Server::Read => {
                    let said = back.read().await?;
                    if said.is_empty() {
                        return Ok(());
                    }
                    let heard = self.with(|it| it.watch(&said));
                    self.note(heard);
                    back.write(&said).await?;
                }
            }
        }
    }
}

async fn to_end(mut back: Lane<'_>, server_done: &AtomicBool) -> Result<(), Stop> {
    back.move_all().await?;
    Ok(end(&back, server_done)?)
}

fn end(back: &Lane<'_>, server_done: &AtomicBool) -> io::Result<()> {
    server_done.store(true, Ordering::Relaxed);
    back.finish()
}

/// Looks at what a TLS client says until nothing more can change whom it speaks to.
async fn watch_tls(mut guard: TlsGuard, out: &mut Lane<'_>) -> Result<(), Stop> {
    let mut held = Vec::new();
    loop {
        let said = out.read().await?;
        if said.is_empty() {
            // What was held back is no whole hello, and goes nowhere.
            return Ok(());
        }
        held.extend_from_slice(&said);
        match guard.feed(&said).map_err(Stop::Fault)? {
            Hold::Keep => {}
            Hold::Release => {
                out.write(&held).await?;
                held.clear();
            }
            Hold::Settled => {
                out.write(&held).await?;
                drop(held);
                return Ok(out.move_all().await?);
            }
        }
    }
}

/// A conversation that both directions look at.
struct Shared {
    conversation: Mutex<Conversation>,
    /// The server said something that may let the client go on.
    changed: Notify,
    /// The server has said its last.
    ended: AtomicBool,
}

impl Shared {
    fn with<T>(&self, use_it: impl FnOnce(&mut Conversation) -> T) -> T {
        use_it(
            &mut self
                .conversation
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    async fn client(&self, out: &mut Lane<'_>) -> Result<(), Stop> {
        let mut released = Vec::new();
        loop {
            match self.with(|it| it.client()) {
                Client::Opaque => return Ok(out.move_all().await?),
                Client::Pass(most) => {
                    let moved = out.move_some(most).await?;
                    if moved == 0 {
                        return Ok(());
                    }
                    self.with(|it| it.passed(moved));
                }
                Client::Read => {
                    let said = out.read().await?;
                    if said.is_empty() {
                        return Ok(());
                    }
                    let fed = self.with(|it| it.feed(&said, &mut released));
                    drop(said);
                    self.release(out, &mut released).await?;
                    fed.map_err(Stop::Fault)?;
                }
                Client::Wait if self.ended.load(Ordering::Relaxed) => return Ok(()),
                Client::Wait => {
                    self.changed.notified().await;
                    let fed = self.with(|it| it.feed(&[], &mut released));
                    self.release(out, &mut released).await?;
                    fed.map_err(Stop::Fault)?;
                }
            }
        }
    }

    async fn release(&self, out: &Lane<'_>, released: &mut Vec<u8>) -> io::Result<()> {
        if !released.is_empty() {
            out.write(released).await?;
            *released = Vec::new();
        }
        Ok(())
    }

    async fn server(&self, back: &mut Lane<'_>) -> Result<(), Stop> {
        loop {
            match self.with(|it| it.server()) {
                Server::Opaque => return Ok(back.move_all().await?),
                Server::Pass(most) => {
                    let moved = back.move_some(most).await?;
                    if moved == 0 {
                        return Ok(());
                    }
                    self.with(|it| it.answered(moved));
                }
                Server::Read => {
                    let said = back.read().await?;
                    if said.is_empty() {
                        return Ok(());
                    }
                    let seen = self.with(|it| it.watch(&said));
                    // The client's direction may go on, once it looks.
                    self.changed.notify_one();
                    seen.map_err(Stop::Fault)?;
                    back.write(&said).await?;
                }
            }
        }
    }
}
