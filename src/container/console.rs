//! What keeper sends to the pid 1 of a container with a console, over a FIFO. Pure.
//!
//! A frame is a kind, the length of what follows (two bytes, the low one first), and that. It is never longer than what a pipe takes whole or
//! not at all, so a keeper that is killed leaves no half of one. A pid 1 outlives keeper's upgrades: it passes over kinds that it does not know.

const HEAD: usize = 3;

/// Most bytes of input in one frame: the whole fits into `PIPE_BUF` (pipe(7)).
pub const MAX_DATA: usize = 4096 - HEAD;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Bytes for the program's standard input.
    Data(Vec<u8>),
    /// Standard input ends.
    End,
    /// Rows and columns of the terminal.
    Size(u16, u16),
}

impl Frame {
    /// Its bytes. Of data, at most [`MAX_DATA`] bytes are taken.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Data(bytes) => (0, bytes[..bytes.len().min(MAX_DATA)].to_vec()),
            Self::End => (1, Vec::new()),
            Self::Size(rows, columns) => (2, [rows.to_le_bytes(), columns.to_le_bytes()].concat()),
        };
        let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_le_bytes();
        [&[kind, length[0], length[1]][..], &body].concat()
    }
}

/// The first frame in these bytes, if it is whole, and how many bytes it takes; the frame is `None` if its kind is not known.
pub fn decode(bytes: &[u8]) -> Option<(Option<Frame>, usize)> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let body = rest.get(..usize::from(u16::from_le_bytes([head[1], head[2]])))?;
    let frame = match (head[0], body) {
        (0, data) => Some(Frame::Data(data.to_vec())),
        (1, []) => Some(Frame::End),
        (2, [a, b, c, d]) => Some(Frame::Size(u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]))),
        _ => None,
    };
    Some((frame, HEAD + body.len()))
}

#[cfg(test)]
mod tests {
    use super::{Frame, MAX_DATA, decode};

    #[test]
    fn a_frame_is_read_as_it_was_written_and_only_as_a_whole() {
        let all: Vec<u8> = (0..=255).cycle().take(MAX_DATA).collect();
        for frame in [Frame::Data(Vec::new()), Frame::Data(b"ls\n".to_vec()), Frame::Data(all), Frame::End, Frame::Size(50, 132)] {
            let bytes = frame.encode();
            assert!(bytes.len() <= 4096);
            assert_eq!(decode(&[&bytes[..], b"more"].concat()), Some((Some(frame), bytes.len())));
            for length in 0..bytes.len() {
                assert_eq!(decode(&bytes[..length]), None, "{length}");
            }
        }
    }

    #[test]
    fn a_frame_of_another_release_is_passed_over() {
        for (bytes, used) in [(&[7, 2, 0, 1, 2, 9][..], 5), (&[2, 1, 0, 5], 4), (&[1, 1, 0, 5], 4)] {
            assert_eq!(decode(bytes), Some((None, used)));
        }
    }
}
