//! MQTT packets over a byte stream.
//!
//! rumqttc gives packets and codec; its event loop is not used, because these defects of 0.25.1 lie in it and cannot be reached from outside:
//! - a packet over the limit is an error, and a retained one comes again after every reconnect: here it is skipped, acknowledged, and told;
//! - a publish is acknowledged before the program has it: here the PUBACK is sent by the session, once keeper has taken the message;
//! - addresses are tried one after the other in one time limit, so that a dead IPv6 route hides a working IPv4 one (see `dial`);
//! - packet identifiers collide when a broker acknowledges out of order, and a lost session leaves it waiting for ever (see `outbox`);
//! - a half-open connection is noticed only after two keep-alives, and a slow large packet looks like one: here every byte that arrives counts.

use bytes::{Buf, BytesMut};
use rumqttc::mqttbytes::{Error, check};
use rumqttc::{Packet, QoS};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Longest packet that is taken in: 64 KiB and a topic.
pub const MAX_INCOMING: usize = 64 * 1024 + 512;
/// Bytes waiting to be written over which nothing more is read: what arrives makes acknowledgements, and a broker that takes none of them would
/// fill our memory. Not reading, we hear nothing, and the keep-alive ends the connection.
const MAX_WAITING: usize = 128 * 1024;
/// Bytes read in one go.
const CHUNK: usize = 4096;

/// TCP, or TLS over it.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// What arrived.
#[derive(Debug)]
pub enum Frame {
    /// A packet.
    Packet(Packet),
    /// A PUBLISH over [`MAX_INCOMING`], whose payload was thrown away.
    Skipped(Head),
}

/// The front of a PUBLISH packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Topic name.
    pub topic: String,
    /// 0 at QoS 0.
    pub pkid: u16,
    /// Bytes of payload.
    pub payload: usize,
    /// Bytes in front of the payload.
    before: usize,
}

/// Both directions of one connection. Every method may be cancelled and called again.
pub struct Wire {
    stream: Box<dyn Stream>,
    incoming: BytesMut,
    outgoing: BytesMut,
    unflushed: bool,
    skipping: Option<(Head, usize)>,
    /// When a byte last arrived.
    pub last_in: Instant,
    /// When a byte was last handed to the kernel.
    pub last_out: Instant,
}

impl Wire {
    /// Over a connected stream.
    pub fn new(stream: Box<dyn Stream>) -> Self {
        let now = Instant::now();
        let (incoming, outgoing) = (BytesMut::new(), BytesMut::new());
        Self { stream, incoming, outgoing, unflushed: false, skipping: None, last_in: now, last_out: now }
    }

    /// Puts a packet behind those that wait to be written.
    pub fn send(&mut self, packet: &Packet) -> io::Result<()> {
        packet.write(&mut self.outgoing, usize::MAX).map_err(garbled)?;
        Ok(())
    }

    /// Everything sent so far is with the kernel.
    pub fn is_written(&self) -> bool {
        self.outgoing.is_empty() && !self.unflushed
    }

    /// Moves bytes in either direction; `Some` as soon as a packet is complete.
    ///
    /// # Errors
    /// The stream's, `UnexpectedEof` at its end, `InvalidData` for bytes that are not MQTT.
    pub async fn turn(&mut self) -> io::Result<Option<Frame>> {
        if let Some(frame) = self.take()? {
            return Ok(Some(frame));
        }
        poll_fn(|cx| self.progress(cx)).await?;
        self.take()
    }

    /// Waits for a packet, writing meanwhile.
    pub async fn receive(&mut self) -> io::Result<Frame> {
        loop {
            if let Some(frame) = self.turn().await? {
                return Ok(frame);
            }
        }
    }

    /// Writes what waits and closes the writing side.
    pub async fn close(&mut self) -> io::Result<()> {
        while !self.is_written() {
            poll_fn(|cx| if self.write(cx)? { Poll::Ready(io::Result::Ok(())) } else { Poll::Pending }).await?;
        }
        poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await
    }

    fn progress(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wrote = self.write(cx)?;
        let read = self.outgoing.len() <= MAX_WAITING && self.read(cx)?;
        if wrote || read { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// True if something moved.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut moved = false;
        while !self.outgoing.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.outgoing)? {
                Poll::Pending => return Ok(moved),
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(n) => self.outgoing.advance(n),
            }
            (moved, self.unflushed, self.last_out) = (true, true, Instant::now());
        }
        if self.unflushed && Pin::new(&mut self.stream).poll_flush(cx)?.is_ready() {
            // A fresh buffer: a 64 KiB packet must not keep its memory until the next one.
            (self.unflushed, self.outgoing, moved) = (false, BytesMut::new(), true);
        }
        Ok(moved)
    }

    /// True if something arrived.
    fn read(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut chunk = [0; CHUNK];
        let mut buf = ReadBuf::new(&mut chunk);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buf)? {
            Poll::Pending => return Ok(false),
            Poll::Ready(()) if buf.filled().is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            Poll::Ready(()) => {}
        }
        self.incoming.extend_from_slice(buf.filled());
        self.last_in = Instant::now();
        Ok(true)
    }

    fn take(&mut self) -> io::Result<Option<Frame>> {
        if self.skipping.is_some() {
            return Ok(self.skip());
        }
        match check(self.incoming.iter(), MAX_INCOMING) {
            Ok(_) => {}
            Err(Error::InsufficientBytes(_)) => return Ok(None),
            Err(Error::PayloadSizeLimitExceeded(_)) => return self.start_skipping(),
            Err(e) => return Err(garbled(e)),
        }
        let packet = Packet::read(&mut self.incoming, MAX_INCOMING).map_err(garbled)?;
        if self.incoming.is_empty() {
            self.incoming = BytesMut::new();
        }
        Ok(Some(Frame::Packet(packet)))
    }

    fn start_skipping(&mut self) -> io::Result<Option<Frame>> {
        let Some(head) = Head::parse(&self.incoming)? else { return Ok(None) };
        let left = head.before + head.payload;
        self.skipping = Some((head, left));
        Ok(self.skip())
    }

    fn skip(&mut self) -> Option<Frame> {
        let (_, left) = self.skipping.as_mut()?;
        let n = self.incoming.len().min(*left);
        self.incoming.advance(n);
        *left -= n;
        if *left > 0 {
            return None;
        }
        self.skipping.take().map(|(head, _)| Frame::Skipped(head))
    }
}

impl Head {
    /// The front of the packet in these bytes; `None` when more are needed (never more than a topic's 64 KiB).
    fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        let Some((remaining, header)) = remaining_length(bytes) else { return Ok(None) };
        let flags = bytes[0];
        if flags >> 4 != 3 {
            return Err(invalid("the broker sent a packet over the limit that is not a message"));
        }
        let Some(length) = bytes.get(header..header + 2) else { return Ok(None) };
        let topic_end = header + 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
        let before = topic_end + if flags & 0b110 == 0 { 0 } else { 2 };
        let (Some(topic), Some(rest)) = (bytes.get(header + 2..topic_end), bytes.get(topic_end..before)) else { return Ok(None) };
        let payload = (header + remaining).checked_sub(before).ok_or_else(|| invalid("the broker sent a packet shorter than its topic"))?;
        let pkid = if let [high, low] = rest { u16::from_be_bytes([*high, *low]) } else { 0 };
        Ok(Some(Self { topic: String::from_utf8_lossy(topic).into_owned(), pkid, payload, before }))
    }
}

/// The remaining length (MQTT 3.1.1, section 2.2.3) and where the variable header begins.
fn remaining_length(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (i, byte) in bytes.iter().skip(1).take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, i + 2));
        }
    }
    None
}

/// The acknowledgement that a message at this QoS needs. QoS 2 is never subscribed to, so no broker may use it.
pub fn puback(qos: QoS, pkid: u16) -> io::Result<Option<Packet>> {
    match qos {
        QoS::AtMostOnce => Ok(None),
        QoS::AtLeastOnce => Ok(Some(Packet::PubAck(rumqttc::PubAck::new(pkid)))),
        QoS::ExactlyOnce => Err(invalid("the broker sent a message at QoS 2, which was not subscribed to")),
    }
}

fn garbled(e: Error) -> io::Error {
    match e {
        Error::Io(e) => e,
        e => invalid(&format!("the broker sent bytes that are not MQTT 3.1.1: {e}")),
    }
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rumqttc::{PubAck, Publish};
    use std::collections::VecDeque;

    /// Gives the bytes in pieces of the stated sizes, then ends.
    struct Pieces(VecDeque<Vec<u8>>);

    impl AsyncRead for Pieces {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if let Some(mut piece) = self.0.pop_front() {
                let rest = piece.split_off(piece.len().min(buf.remaining()));
                buf.put_slice(&piece);
                if !rest.is_empty() {
                    self.0.push_front(rest);
                }
            }
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Pieces {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn read_all(bytes: &[u8], piece: usize) -> (Vec<Frame>, io::Error) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut wire = Wire::new(Box::new(Pieces(bytes.chunks(piece).map(<[u8]>::to_vec).collect())));
            let mut frames = Vec::new();
            loop {
                match wire.receive().await {
                    Ok(frame) => frames.push(frame),
                    Err(e) => return (frames, e),
                }
            }
        })
    }

    fn bytes_of(packets: &[Packet]) -> Vec<u8> {
        let mut out = BytesMut::new();
        for packet in packets {
            packet.write(&mut out, usize::MAX).unwrap();
        }
        out.to_vec()
    }

    fn publish(qos: QoS, pkid: u16, size: usize) -> Packet {
        let mut publish = Publish::new("some/topic", qos, vec![7; size]);
        publish.pkid = pkid;
        Packet::Publish(publish)
    }

    #[test]
    fn packets_come_out_whole_however_the_bytes_are_cut() {
        let packets =
            [publish(QoS::AtLeastOnce, 9, 20_000), Packet::PingResp, Packet::PubAck(PubAck::new(3)), publish(QoS::AtMostOnce, 0, 5)];
        for piece in [1, 2, 7, 4096, 100_000] {
            let (frames, end) = read_all(&bytes_of(&packets), piece);
            assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
            let seen: Vec<_> = frames.into_iter().map(|f| if let Frame::Packet(p) = f { p } else { panic!("{f:?}") }).collect();
            assert_eq!(seen, packets, "pieces of {piece}");
        }
    }

    /// Sends the same message for ever, and takes nothing.
    struct Deaf(Vec<u8>);

    impl AsyncRead for Deaf {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            buf.put_slice(&self.0);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Deaf {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[test]
    fn of_a_broker_that_takes_nothing_no_more_is_read() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut wire = Wire::new(Box::new(Deaf(bytes_of(&[publish(QoS::AtLeastOnce, 1, 0)]))));
            let ack = puback(QoS::AtLeastOnce, 1).unwrap().unwrap();
            while let Ok(frame) = tokio::time::timeout(std::time::Duration::from_millis(100), wire.receive()).await {
                assert!(matches!(frame, Ok(Frame::Packet(Packet::Publish(_)))), "{frame:?}");
                wire.send(&ack).unwrap();
                assert!(wire.outgoing.len() <= MAX_WAITING + CHUNK, "{} bytes wait", wire.outgoing.len());
            }
            assert!(wire.outgoing.len() > MAX_WAITING);
        });
    }

    #[test]
    fn a_message_over_the_limit_is_skipped_and_the_next_one_arrives() {
        for (qos, pkid) in [(QoS::AtMostOnce, 0), (QoS::AtLeastOnce, 513)] {
            let bytes = bytes_of(&[publish(qos, pkid, 300_000), Packet::PingResp]);
            for piece in [1, 3, 4096] {
                let (frames, _) = read_all(&bytes, piece);
                let [Frame::Skipped(head), Frame::Packet(Packet::PingResp)] = &frames[..] else { panic!("{frames:?}") };
                assert_eq!((head.topic.as_str(), head.pkid, head.payload), ("some/topic", pkid, 300_000));
            }
        }
    }

    #[test]
    fn bytes_that_are_not_mqtt_are_an_error() {
        let table: [&[u8]; 4] = [
            &[0x00, 0x00],                               // reserved packet type
            &[0x30, 0xff, 0xff, 0xff, 0xff, 0x01],       // remaining length of five bytes
            &[0x90, 0xff, 0xff, 0xff, 0x7f, 0x00, 0x01], // a SUBACK of 256 MiB
            &[0x40, 0x01, 0x00],                         // a PUBACK of one byte
        ];
        for bytes in table {
            let (frames, end) = read_all(bytes, 64);
            assert!(frames.is_empty(), "{bytes:02x?}: {frames:?}");
            assert_eq!(end.kind(), io::ErrorKind::InvalidData, "{bytes:02x?}: {end}");
        }
    }

    #[test]
    fn a_large_message_may_be_nearly_all_topic() {
        let mut bytes = vec![0x32, 0x81, 0x84, 0x04, 0xff, 0xff];
        bytes.resize(4 + 66_049, b'x');
        let (frames, end) = read_all(&bytes, 4096);
        let [Frame::Skipped(head)] = &frames[..] else { panic!("{frames:?} {end}") };
        assert_eq!((head.topic.len(), head.payload), (65_535, 66_049 - 2 - 65_535 - 2));
    }
}
