//! Polls and posts of one client, what sessions said last, and how much memory all of it takes.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use super::{
    Polls,
    poll::Poll,
    post::CheckedPost,
    transport::{Phase, Transport},
};
use crate::{
    event_loop::Unfinished,
    http::timeouts::{ConnectionTimer, OnAnswered as _},
    id::AppId,
    limits::{ANSWERS_PART, LAST_WORDS_BYTES, LAST_WORDS_COST, POLL_BYTES, POLL_BYTES_TIGHT},
    protocol::{
        engineio::{self, Refused},
        frame::Frame,
    },
    session::handover::Far,
};

fn transport(far: tokio::net::UnixStream, answers: &Arc<AtomicUsize>) -> Arc<Transport> {
    let (far, handover) = (Far::new(far, None), Arc::default());
    Arc::new(Transport::new(AppId(0), far, handover, answers.clone()))
}

/// A session that says `events` of so many bytes, and the client that is to poll them.
fn says(events: usize, bytes: usize) -> (tokio::net::UnixStream, Arc<Transport>) {
    let (near, far) = tokio::net::UnixStream::pair().unwrap();
    socket2::SockRef::from(&near)
        .set_send_buffer_size(1 << 20)
        .unwrap();
    let event = Frame::event_text(&[&vec![b'a'; bytes]]);
    for _ in 0..events {
        assert_eq!(near.try_write(event.bytes()).unwrap(), event.len());
    }
    (near, transport(far, &Arc::default()))
}

fn is_pending(future: std::pin::Pin<&mut impl Future>) -> bool {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    future.poll(&mut cx).is_pending()
}

const PLENTY: usize = 1 << 30;

async fn polled(client: &Arc<Transport>) -> Result<(Vec<u8>, Poll), Refused> {
    client
        .poll(PLENTY, &ConnectionTimer::new(Arc::default()))
        .await
}

/// A poll whose answer is being written, and a second one that waits for that; how many sockets the client borrows.
macro_rules! poll_that_waits {
    ($client:ident, $answering:ident, $waiting:ident, $lent:ident) => {
        let (_, $answering) = polled(&$client).await.unwrap();
        let $lent: Arc<AtomicUsize> = Arc::default();
        let life = ConnectionTimer::new($lent.clone());
        let mut $waiting = pin!($client.poll(PLENTY, &life));
        assert!(is_pending($waiting.as_mut()));
    };
}

#[tokio::test]
async fn one_poll_waits_for_the_answer_before_it_and_a_further_one_ends_the_session() {
    let (_near, client) = says(1, 10);
    poll_that_waits!(client, answering, waiting, lent);
    assert_eq!(lent.load(Relaxed), 0, "no place stands for it");
    assert_eq!(polled(&client).await.err(), Some(Refused::BadRequest));
    assert_eq!(waiting.await.err(), Some(Refused::UnknownSession));
    drop(answering);

    let (near, client) = says(1, 10);
    poll_that_waits!(client, answering, waiting, lent);
    Box::new(answering).written();
    assert!(is_pending(waiting.as_mut()), "nothing was said");
    assert_eq!(lent.load(Relaxed), 1, "it waits for the session");
    let event = Frame::event_text(&[b"b"]);
    near.try_write(event.bytes()).unwrap();
    let (payload, _poll) = waiting.await.unwrap();
    assert_eq!((&payload[..], lent.load(Relaxed)), (&b"b"[..], 0));
}

#[tokio::test]
async fn a_poll_that_was_given_up_while_it_waited_makes_room_for_the_next() {
    let (_near, client) = says(1, 10);
    let (_, answering) = polled(&client).await.unwrap();
    {
        let mut given_up = pin!(polled(&client));
        assert!(is_pending(given_up.as_mut()));
    }
    let mut next = pin!(polled(&client));
    assert!(is_pending(next.as_mut()));
    assert_eq!(client.state.lock().phase, Phase::Polling);
    drop(answering);
}

#[tokio::test]
async fn a_poll_that_waits_for_the_answer_before_it_ends_with_its_session() {
    let ends: [fn(&Arc<Polls>, &Transport); 3] = [
        |_, client| client.close(),
        // It has nothing to say.
        |polls, _| polls.end("a"),
        // As if the time of its last words were over.
        |polls, _| polls.forget("a"),
    ];
    for end in ends {
        let (near, client) = says(1, 10);
        let polls = Arc::new(Polls::default());
        polls.insert("a", client.clone());
        poll_that_waits!(client, answering, waiting, _lent);
        drop(near);
        end(&polls, &client);
        assert_eq!(waiting.await.err(), Some(Refused::UnknownSession));
        drop(answering);
    }
}

#[tokio::test]
async fn a_poll_that_waits_gets_what_its_session_said_last() {
    let (near, client) = says(1, 10);
    poll_that_waits!(client, answering, waiting, _lent);
    near.try_write(Frame::event_text(&[b"b"]).bytes()).unwrap();
    drop(near);
    assert!(client.end().is_some());
    assert!(is_pending(waiting.as_mut()), "the answer comes first");
    Box::new(answering).written();
    assert_eq!(waiting.await.unwrap().0, b"b");
}

#[tokio::test]
async fn a_client_that_polls_keeps_no_more_than_what_it_has_yet_to_get() {
    let (near, client) = says(70, 4000);
    near.try_write(b"\x81\x7e\x10\x00the beginning of a frame")
        .unwrap();
    let (payload, poll) = polled(&client).await.unwrap();
    assert!(payload.len().abs_diff(POLL_BYTES) < 5000);
    assert!(
        payload.capacity() <= payload.len() + 5000,
        "it grew by doubling"
    );
    let held = |client: &Transport| {
        let state = client.state.lock();
        (state.unread.len(), state.unread.capacity())
    };
    let (left, room) = held(&client);
    assert!(left > 0 && room <= left + 64, "{room} bytes for {left}");
    Box::new(poll).written();

    let (rest, poll) = polled(&client).await.unwrap();
    assert_eq!(payload.len() + 1 + rest.len(), 70 * 4001 - 1);
    Box::new(poll).written();
    assert_eq!(held(&client).0, "....the beginning of a frame".len());
    assert!(held(&client).1 < 100);
    client.close();
    assert_eq!(held(&client), (0, 0));
}

#[tokio::test]
async fn answers_are_short_while_many_are_being_written() {
    let (_near, client) = says(40, 1000);
    client.answers.store(PLENTY / ANSWERS_PART, Relaxed);
    let (payload, poll) = polled(&client).await.unwrap();
    assert!(payload.len() > 2 * POLL_BYTES_TIGHT, "not yet");
    assert!(client.answers.load(Relaxed) >= PLENTY / ANSWERS_PART + payload.len());
    Box::new(poll).written();
    assert_eq!(client.answers.load(Relaxed), PLENTY / ANSWERS_PART);

    let (_near, client) = says(40, 1000);
    client.answers.store(PLENTY / ANSWERS_PART + 1, Relaxed);
    let (payload, _poll) = polled(&client).await.unwrap();
    assert!(payload.len().abs_diff(POLL_BYTES_TIGHT) < 2000);
}

#[tokio::test]
async fn what_a_session_said_last_is_there_without_it_and_then_its_goodbye() {
    let (near, client) = says(3, 10);
    near.try_write(b"\x88\x00").unwrap();
    drop(near);
    assert!(client.end().is_some());
    assert!(client.state.lock().far.is_none(), "the descriptor is kept");
    assert_eq!(client.post().err(), Some(Refused::UnknownSession));
    assert_eq!(client.probe().err(), Some(Refused::UnknownSession));

    let (payload, poll) = polled(&client).await.unwrap();
    assert_eq!(payload.len(), 3 * 11 - 1);
    Box::new(poll).written();
    let (payload, poll) = polled(&client).await.unwrap();
    assert_eq!(payload, engineio::CLOSE);
    Box::new(poll).written();
    assert_eq!(polled(&client).await.err(), Some(Refused::UnknownSession));
}

#[tokio::test]
async fn a_session_that_said_nothing_but_a_ping_or_goodbye_leaves_nothing() {
    for said in [&b""[..], b"\x88\x00", b"\x81\x012\x88\x00", b"\x89\x00"] {
        let (near, client) = says(0, 0);
        near.try_write(said).unwrap();
        drop(near);
        assert_eq!(client.end(), None, "{said:?}");
    }
    let (_near, client) = says(3, 10);
    client.close();
    assert_eq!(client.end(), None, "its client is gone");
}

#[tokio::test]
async fn all_last_words_together_are_bounded_and_end() {
    const MANY: usize = 2 * LAST_WORDS_BYTES / (60_000 + LAST_WORDS_COST);
    let polls = Arc::new(Polls::default());
    let all = async {
        for n in 0..MANY {
            let (near, client) = says(1, 60_000);
            drop(near);
            polls.insert(&n.to_string(), client);
            polls.end(&n.to_string());
        }
        let held = polls.clients.lock().len();
        assert!(held * (60_000 + LAST_WORDS_COST) <= LAST_WORDS_BYTES);
        assert!(held > MANY / 3);
        assert!(polls.find("0", AppId(0)).is_none(), "the oldest goes first");
        let newest = (MANY - 1).to_string();
        assert!(polls.find(&newest, AppId(0)).is_some());

        // As if its time were over.
        let until = Some(Instant::now());
        let gone = std::iter::from_fn(|| polls.ended.lock().pop(until)).count();
        assert_eq!((gone, polls.ended.lock().bytes), (held, 0));
    };
    tokio::task::LocalSet::new().run_until(all).await;
}

#[tokio::test]
async fn a_post_that_its_session_does_not_take_counts_and_is_given_up_where_too_much_waits() {
    let body = format!("4{}", "a".repeat(1 << 20));
    let checked = CheckedPost {
        text: &body,
        leaves: false,
    };
    let post = || {
        let (near, client) = says(0, 0);
        (near, client.post().unwrap(), client)
    };
    let (_near, first, _client) = post();
    let held = Unfinished::new(3 << 20);
    let mut first = Box::pin(first.say(checked, &held));
    assert!(!held.is_tight());
    assert!(is_pending(first.as_mut()));
    assert!(held.is_tight(), "body and frames are two of three MiB");

    let (_near, second, client) = post();
    let mut second = Box::pin(second.say(checked, &held));
    assert!(is_pending(second.as_mut()));
    assert_eq!(
        first.await,
        Err(Refused::BadRequest),
        "it waits for longest"
    );
    drop(second);
    assert_eq!(client.state.lock().phase, Phase::Closed);
    assert!(!held.is_tight());
}

#[tokio::test]
async fn a_post_with_a_packet_that_no_client_sends_is_refused_as_a_whole() {
    let check = async |before: usize, body: &str| {
        let (_near, client) = says(0, 0);
        client.state.lock().attachments = before;
        let post = client.post().unwrap();
        let checked = post.check(body.as_bytes()).await;
        let attachments = client.state.lock().attachments;
        checked.map(|checked| (checked.leaves, attachments))
    };
    for (before, body, is_good) in [
        (0, "40", (false, 0)),
        (0, "42[\"a\"]\u{1e}3\u{1e}1", (true, 0)),
        (0, "452-[\"a\"]\u{1e}bAAAA", (false, 1)),
        (1, "bAAAA\u{1e}42[\"a\"]", (false, 0)),
        (1, "3", (false, 1)),
    ] {
        assert_eq!(check(before, body).await, Ok(is_good), "{body}");
    }
    for (before, body) in [
        (0, "bAAAA"),
        (0, "40\u{1e}bAAAA"),
        (1, "42[\"a\"]"),
        (1, "bAAAA\u{1e}bAAAA"),
        (0, "42[[["),
        (0, "4"),
        (0, "49"),
        (0, ""),
        (0, "x"),
    ] {
        assert!(check(before, body).await.is_err(), "{body}");
    }
}
