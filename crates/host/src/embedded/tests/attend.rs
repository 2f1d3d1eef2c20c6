//! Requests of the proxy, and the process that is started for them.

use super::{Host, eventually, id};
use crate::{
    requests::{Requests, Want},
    supervisor::Service,
};

fn attended(host: &Host) -> usize {
    host.calls().iter().filter(|verb| *verb == "attend").count()
}

/// The folder, and the script that deals with what is in it.
fn beds() -> (Host, Requests, String) {
    let host = Host::new();
    host.start(Service::Proxy);
    let dir = host.layout.instance(&id()).unwrap().requests_dir;
    // As the proxy makes it: the supervisor's watch stays.
    let requests = Requests::make(&dir, (0, 0)).unwrap();
    (host, requests, dir.display().to_string())
}

fn dealt_with(requests: &Requests, want: Want) {
    eventually("an answer", || if requests.is_open(want) { Err("it is open".into()) } else { Ok(()) });
}

#[test]
fn a_request_has_it_attended_to_once_and_the_next_one_again() {
    let (host, requests, dir) = beds();
    host.script("attend", &format!("sleep 0.2; rm -f {dir}/wake {dir}/sleep\n"));
    requests.ask(Want::Wake).unwrap();
    requests.ask(Want::Wake).unwrap();
    dealt_with(&requests, Want::Wake);
    assert_eq!(attended(&host), 1);
    requests.ask(Want::Sleep).unwrap();
    dealt_with(&requests, Want::Sleep);
    assert_eq!(attended(&host), 2);
    assert_eq!(requests.failure(), None);
}

#[test]
fn what_comes_while_it_is_at_work_is_attended_to_after_that() {
    let (host, requests, dir) = beds();
    // It deals with one kind a time.
    host.script("attend", &format!("[ -e {dir}/wake ] && w=wake || w=sleep; sleep 0.3; rm -f {dir}/$w\n"));
    requests.ask(Want::Sleep).unwrap();
    eventually("the first", || if attended(&host) == 1 { Ok(()) } else { Err("not yet".into()) });
    requests.ask(Want::Wake).unwrap();
    dealt_with(&requests, Want::Sleep);
    dealt_with(&requests, Want::Wake);
    assert_eq!(attended(&host), 2);
}

#[test]
fn one_that_fails_is_told_and_not_tried_for_ever() {
    let (host, requests, _) = beds();
    host.script("attend", "exit 1\n");
    requests.ask(Want::Wake).unwrap();
    dealt_with(&requests, Want::Wake);
    assert!(requests.failure().unwrap().contains("`fireclaw attend` failed"));
    assert_eq!(attended(&host), 1);
}

#[test]
fn a_request_that_waited_for_a_new_supervisor_is_attended_to() {
    let (host, requests, dir) = beds();
    host.script("attend", &format!("rm -f {dir}/wake\n"));
    host.kill_supervisor();
    requests.ask(Want::Wake).unwrap();
    assert!(host.supervisor.ensure(&id()).unwrap());
    dealt_with(&requests, Want::Wake);
}
