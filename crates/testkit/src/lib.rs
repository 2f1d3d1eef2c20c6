//! What the tests share: stand-ins of the services that a guest talks to.

pub mod dns;
pub mod http;
pub mod oci;
pub mod provider;
pub mod registry;
pub mod release;
pub mod tls;

#[cfg(test)]
mod testing {
    //! What the tests of the stand-ins share: a client that sends bytes and reads bytes.

    use std::{
        io::{Read, Write},
        net::{SocketAddr, TcpStream},
    };

    /// Sends a request and reads until the server ends the connection.
    pub(crate) fn exchange(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// What follows the head.
    pub(crate) fn body(answer: &str) -> &str {
        answer.split_once("\r\n\r\n").unwrap().1
    }
}
