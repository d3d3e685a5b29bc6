//! One connection: HTTP/1.1 over it until it ends, and the patience it is met with.
//!
//! ```text
//!   accepted ──▶ head ──(head is whole)──▶ working ──(answer begins)──▶ idle ──(first byte)──▶ head …
//!            HEADER_TIMEOUT            its own limits           KEEP_ALIVE without a byte
//! ```
//!
//! `hyper` has a timer for heads, but it runs on an idle connection too: with `HEADER_TIMEOUT` of 10 s every client
//! that pauses so long would find its kept connection closed, some of them in the middle of their next request. Hence
//! two limits: a head must be whole within `HEADER_TIMEOUT` of its first byte (the first one of a connection: of the
//! accept), while a connection may idle for [`KEEP_ALIVE`]. An answer that is being streamed counts as idle when the
//! client takes nothing of it. A connection whose time is up is closed without an answer.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::Routes;

/// How long a connection may idle. Longer than usual clients keep theirs (reqwest 90 s, Go 90 s, browsers less), so
/// that it is the client that closes, and no request meets a closing door.
const KEEP_ALIVE: Duration = Duration::from_secs(120);

/// Serves a connection until it is closed or, once `stopping`, its open request is answered.
pub(super) async fn drive(
    stream: TcpStream,
    routes: Routes,
    header_timeout: Duration,
    stopping: impl Future<Output = ()>,
) {
    let watch = Arc::new(Watch::new(header_timeout));
    let io = TokioIo::new(Watched { stream, watch: watch.clone() });
    let service = service_fn(|request: Request<Incoming>| {
        watch.work();
        let answer = routes.clone().answer(request);
        let watch = watch.clone();
        async move {
            let answer = answer.await;
            watch.rest();
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        // A client may close its sending side once its request is sent (`nc` does), and still wants the answer.
        .half_close(true)
        .serve_connection(io, service);
    let (mut connection, mut stopping) = (pin!(connection), pin!(stopping));
    let mut alarm = pin!(sleep_until(watch.deadline().unwrap_or_else(Instant::now)));
    let mut told = false;
    poll_fn(|context| {
        loop {
            if let Poll::Ready(result) = connection.as_mut().poll(context) {
                if let Err(error) = result {
                    tracing::debug!(%error, "a connection broke");
                }
                return Poll::Ready(());
            }
            if !told && stopping.as_mut().poll(context).is_ready() {
                told = true;
                connection.as_mut().graceful_shutdown();
                continue;
            }
            let Some(deadline) = watch.deadline() else { return Poll::Pending };
            // The alarm is set anew only when it would ring too late, or rang too early: a busy connection moves its
            // deadline with every request, and timers cost a lock.
            if deadline < alarm.deadline() {
                alarm.as_mut().reset(deadline);
            }
            ready!(alarm.as_mut().poll(context));
            if deadline <= Instant::now() {
                tracing::debug!("a connection was closed: its head or its next request took too long");
                return Poll::Ready(());
            }
            alarm.as_mut().reset(deadline);
        }
    })
    .await;
}

/// When a connection's time is up. Shared by its parts, all of which run in one task: the lock is never waited for.
struct Watch {
    header_timeout: Duration,
    phase: Mutex<Phase>,
}

struct Phase {
    /// A handler is at work; it has limits of its own.
    is_working: bool,
    /// When the head began that is being received.
    head_since: Option<Instant>,
    /// When a byte last came or went.
    active_at: Instant,
}

impl Watch {
    fn new(header_timeout: Duration) -> Watch {
        let now = Instant::now();
        Watch {
            header_timeout,
            phase: Mutex::new(Phase { is_working: false, head_since: Some(now), active_at: now }),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let phase = self.phase.lock();
        match phase.head_since {
            _ if phase.is_working => None,
            Some(since) => Some(since + self.header_timeout),
            None => Some(phase.active_at + KEEP_ALIVE),
        }
    }

    fn work(&self) {
        let mut phase = self.phase.lock();
        phase.is_working = true;
        phase.head_since = None;
    }

    fn rest(&self) {
        let mut phase = self.phase.lock();
        phase.is_working = false;
        phase.active_at = Instant::now();
    }

    fn received(&self) {
        let mut phase = self.phase.lock();
        phase.active_at = Instant::now();
        if !phase.is_working && phase.head_since.is_none() {
            phase.head_since = Some(phase.active_at);
        }
    }

    fn sent(&self) {
        let mut phase = self.phase.lock();
        phase.active_at = Instant::now();
        // Bytes that came during an answer are not yet being looked at.
        phase.head_since = None;
    }
}

/// A stream that tells its watch when bytes come and go.
struct Watched {
    stream: TcpStream,
    watch: Arc<Watch>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        if buffer.filled().len() > before {
            self.watch.received();
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        self.watch.sent();
        Poll::Ready(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices));
        self.watch.sent();
        Poll::Ready(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn heads_are_hurried_and_idle_connections_are_not() {
        let second = Duration::from_secs(1);
        let watch = Watch::new(second);
        let left = || watch.deadline().map(|deadline| deadline - Instant::now());
        assert_eq!(left(), Some(second), "who connects has to say something");
        watch.received();
        tokio::time::advance(second / 2).await;
        watch.received();
        assert_eq!(left(), Some(second / 2), "a dribble gains no time");
        watch.work();
        assert_eq!(left(), None, "handlers limit themselves");
        watch.rest();
        watch.sent();
        tokio::time::advance(second * 60).await;
        assert_eq!(left(), Some(second * 60), "an idle connection stays");
        watch.received();
        assert_eq!(left(), Some(second), "the next head is hurried again");
    }
}
