//! Whether a TLS `ClientHello` carries another, encrypted one (draft-ietf-tls-esni). Touches nothing.
//!
//! rustls reads and checks the message and tells its name; it does not tell of extensions that it does not know, and this one
//! decides what the name is worth.

/// `encrypted_client_hello`
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
/// The record type of handshake messages.
const HANDSHAKE: u8 = 22;
/// The first handshake message.
const CLIENT_HELLO: u8 = 1;

/// Looks through the extensions of the `ClientHello` at the beginning of `bytes`, be it in one record or in many. `None` when it
/// is not whole or not one.
pub fn hides_a_name(bytes: &[u8]) -> Option<bool> {
    let message = first_message(bytes)?;
    let mut rest = Reader(&message);
    rest.skip(2 + 32)?;
    rest.skip_vector(1)?;
    rest.skip_vector(2)?;
    rest.skip_vector(1)?;
    if rest.0.is_empty() {
        return Some(false);
    }
    let mut extensions = Reader(rest.vector(2)?);
    let mut found = false;
    while !extensions.0.is_empty() {
        found |= extensions.number(2)? == usize::from(ENCRYPTED_CLIENT_HELLO);
        extensions.skip_vector(2)?;
    }
    Some(found)
}

/// The body of the first handshake message, put together from its records.
fn first_message(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut records = Reader(bytes);
    let mut message = Vec::new();
    loop {
        let kind = records.number(1)?;
        records.skip(2)?;
        let payload = records.vector(2)?;
        if kind != usize::from(HANDSHAKE) || payload.is_empty() {
            return None;
        }
        message.extend_from_slice(payload);
        let mut head = Reader(&message);
        if let (Some(kind), Some(body)) = (head.number(1), head.vector(3)) {
            return (kind == usize::from(CLIENT_HELLO)).then(|| body.to_vec());
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn skip(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, width: usize) -> Option<usize> {
        Some(self.skip(width)?.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
    }

    /// Bytes behind their own length.
    fn vector(&mut self, width: usize) -> Option<&'a [u8]> {
        let length = self.number(width)?;
        self.skip(length)
    }

    fn skip_vector(&mut self, width: usize) -> Option<()> {
        self.vector(width).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A `ClientHello` with these extensions, in records of at most `size` bytes.
    fn hello(extensions: &[(u16, &[u8])], size: usize) -> Vec<u8> {
        let mut listed = Vec::new();
        for (kind, body) in extensions {
            listed.extend(kind.to_be_bytes());
            listed.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
            listed.extend_from_slice(body);
        }
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend(u16::try_from(listed.len()).unwrap().to_be_bytes());
        body.extend(listed);
        let mut message = vec![1];
        message.extend(&u32::try_from(body.len()).unwrap().to_be_bytes()[1..]);
        message.extend(body);
        message
            .chunks(size)
            .flat_map(|piece| {
                let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
                [&[22, 3, 1, length[0], length[1]], piece].concat()
            })
            .collect()
    }

    #[test]
    fn found_in_one_record_or_in_many() {
        for size in [1, 7, 4096] {
            assert_eq!(hides_a_name(&hello(&[(0, b"x"), (0xfe0d, b"secret")], size)), Some(true));
            assert_eq!(hides_a_name(&hello(&[(0, b"x"), (0xfe0c, b"")], size)), Some(false));
            let whole = hello(&[(0xfe0d, b"")], size);
            assert_eq!(hides_a_name(&whole[..whole.len() - 1]), None, "not whole");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..400), at in 0..200usize, byte: u8) {
            let _ = hides_a_name(&bytes);
            let mut spoilt = hello(&[(0, b"abc"), (0xfe0d, &bytes)], 50);
            let at = at % spoilt.len();
            spoilt[at] = byte;
            let _ = hides_a_name(&spoilt);
        }
    }
}
