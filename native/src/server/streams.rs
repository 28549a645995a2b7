//! The calls of one connection: those that h2 reads, and the lone calls that bypass it.

use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use http::Request;

use super::client::Client;
use super::lone::Template;
use crate::http2::{Reader, Seldom, Watched};

/// The calls of one connection.
pub struct Streams<'a> {
    client: &'a Client,
    pub http2: Connection<Watched, Bytes>,
    /// Reads lone calls; None if no call may bypass h2.
    reader: Option<Reader<Template>>,
    /// Whether h2 must be polled, if there is a reader.
    news: Seldom,
}

impl<'a> Streams<'a> {
    pub fn new(client: &'a Client, http2: Connection<Watched, Bytes>, reader: Option<Reader<Template>>) -> Self {
        Self { client, http2, reader, news: Seldom::default() }
    }

    /// Reads and begins lone calls, and calls `poll` whenever h2 must be polled; its last argument says whether there
    /// is a call that h2 does not know of.
    pub fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        mut poll: impl FnMut(&mut Context<'_>, &mut Connection<Watched, Bytes>, bool) -> Poll<T>,
    ) -> Poll<T> {
        let Self { client, http2, reader, news } = self;
        let Some(reader) = reader else { return poll(context, http2, false) };
        loop {
            if reader.poll(context, |template, call, data| client.open_lone(template, call, data)) {
                news.is_due();
            }
            let outcome = news.poll(context, |context| poll(context, http2, reader.has_call()));
            if outcome.is_ready() || !reader.begin(|| !http2.has_streams()) {
                return outcome;
            }
        }
    }

    /// Begins a call that h2 has read, unless it is a lone call that has been begun before.
    pub fn open(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let Some(reader) = &mut self.reader else {
            self.client.open(request, respond, false);
            return;
        };
        if let Some(respond) = reader.claim(respond) {
            let learns = reader.learns(respond.stream_id().as_u32());
            if let Some(template) = self.client.open(request, respond, learns) {
                reader.learn(template);
            }
        }
    }

    /// Whether there are calls in flight.
    pub fn exist(&self) -> bool {
        self.http2.has_streams() || self.reader.as_ref().is_some_and(Reader::has_call)
    }

    /// Accepts no more calls, and ends the connection when those in flight have ended.
    pub fn drain(&mut self) {
        if let Some(reader) = &mut self.reader {
            reader.drain();
        }
        self.http2.graceful_shutdown();
    }
}
