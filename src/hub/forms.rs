//! The forms of other protocols on this node: each frame is written once in each form that a client has.
//!
//! Everything is placed as native frames. The thread that writes a connection asks for each frame in the connection's form,
//! and the first one that asks writes it: once for each form, however many clients have that form.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use crate::{
    id::AppId,
    metrics::AppMetrics,
    protocol::{
        frame::Frame,
        native::ParsedFrame,
        wire::{Encoding, Form, Out},
    },
};

/// The wire forms of a node besides the native one.
#[derive(Debug, Default)]
pub(crate) struct Forms(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    form: Form,
    app: AppId,
    encoding: Box<dyn Encoding>,
    metrics: Arc<AppMetrics>,
    connections: AtomicUsize,
}

impl Entry {
    fn encode(&self, frame: &Frame) -> Vec<u8> {
        let mut out = Out::default();
        if let Some(said) = ParsedFrame::read(frame) {
            self.encoding.encode(&said, &mut out);
        }
        debug_assert!(
            !frame.is_event() || !out.is_empty(),
            "an event has a form in every protocol"
        );
        if frame.is_event() {
            self.metrics.encodings.inc();
        }
        out.into_bytes()
    }
}

impl Forms {
    /// Adds a form for clients of `app`, whose `metrics` count its encodings. `None` if there are too many forms.
    pub(crate) fn add(
        &mut self,
        app: AppId,
        encoding: Box<dyn Encoding>,
        metrics: Arc<AppMetrics>,
    ) -> Option<Form> {
        let form = Form::at(self.0.len())?;
        self.0.push(Entry {
            form,
            app,
            encoding,
            metrics,
            connections: AtomicUsize::new(0),
        });
        Some(form)
    }

    /// `frame` in `form`. It costs an encoding the first time, and one atomic addition after that.
    pub(crate) fn frame(&self, form: Form, frame: &Frame) -> Frame {
        match self.entry(form) {
            Some(entry) => frame.in_form(form, || entry.encode(frame)),
            None => frame.clone(),
        }
    }

    /// The same for a frame out of a history, which keeps it for long: it costs an encoding each time, and no memory after that.
    fn frame_once(&self, form: Form, frame: &Frame) -> Frame {
        match self.entry(form) {
            Some(entry) => frame.once_in_form(|| entry.encode(frame)),
            None => frame.clone(),
        }
    }

    /// A frame to be placed for clients of `app` in place of `kept`, which a history stores: what is written for
    /// clients of other protocols must not take memory for as long as that.
    pub(crate) fn to_place(&self, app: AppId, kept: &Frame) -> Frame {
        // A client that enters in between at worst leaves one encoding with the stored frame.
        let has_clients = |entry: &Entry| entry.app == app && entry.connections.load(Relaxed) > 0;
        if self.0.iter().any(has_clients) {
            kept.apart()
        } else {
            kept.clone()
        }
    }

    /// Writes `frame` in each form that a client of `app` has, so that none is written later under a shard's lock.
    pub(crate) fn prepare(&self, app: AppId, frame: &Frame) {
        for entry in &self.0 {
            if entry.app == app && entry.connections.load(Relaxed) > 0 {
                // It stays with the frame.
                let _ = frame.in_form(entry.form, || entry.encode(frame));
            }
        }
    }

    /// Notes one more client of `form`.
    pub(crate) fn enter(&self, form: Form) {
        if let Some(entry) = self.entry(form) {
            entry.connections.fetch_add(1, Relaxed);
        }
    }

    /// Notes one client of `form` less.
    pub(crate) fn leave(&self, form: Form) {
        if let Some(entry) = self.entry(form) {
            entry.connections.fetch_sub(1, Relaxed);
        }
    }

    fn entry(&self, form: Form) -> Option<&Entry> {
        self.0.get(form.index()?)
    }
}

/// The form of one connection, with what writes it.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    form: Form,
    forms: Arc<Forms>,
}

impl Wire {
    /// `None` where frames go out as they are placed.
    pub(crate) fn of(form: Form, forms: &Arc<Forms>) -> Option<Self> {
        (!form.is_native()).then(|| Self {
            form,
            forms: forms.clone(),
        })
    }

    /// `frame` in this form.
    pub(crate) fn frame(&self, frame: &Frame) -> Frame {
        self.forms.frame(self.form, frame)
    }

    /// The same for a frame out of a history.
    pub(crate) fn replayed(&self, frame: &Frame) -> Frame {
        self.forms.frame_once(self.form, frame)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::{
        close::Close,
        metrics::Metrics,
        protocol::event::{Data, Event},
    };

    /// Events by their names, and nothing else.
    #[derive(Debug, Default)]
    struct Names(Arc<AtomicU32>);

    impl Encoding for Names {
        fn encode(&self, said: &ParsedFrame<'_>, out: &mut Out) {
            self.0.fetch_add(1, Relaxed);
            if let ParsedFrame::Event { name, .. } = said {
                out.text(&[name.as_bytes()]);
            } else {
                out.control(said);
            }
        }
    }

    fn event(name: &str) -> Frame {
        Event::new(name, Data::Bytes(b"1"[..].into()))
            .unwrap()
            .encode()
    }

    #[test]
    fn a_frame_is_written_once_in_each_form() {
        let metrics = Arc::new(Metrics::new().app("a"));
        let (mut forms, count) = (Forms::default(), Arc::<AtomicU32>::default());
        let mut add = || {
            let encoding = Box::new(Names(count.clone()));
            forms.add(AppId(0), encoding, metrics.clone()).unwrap()
        };
        let (one, two) = (add(), add());
        let frame = event("chat");
        assert!(forms.frame(Form::NATIVE, &frame).is_same(&frame));
        let first = forms.frame(one, &frame);
        assert_eq!(first.bytes(), b"\x81\x04chat");
        assert!(first.is_event());
        for _ in 0..3 {
            assert!(forms.frame(one, &frame).is_same(&first));
            assert!(!forms.frame(two, &frame).is_same(&first));
        }
        assert_eq!((count.load(Relaxed), metrics.encodings.get()), (2, 2));
        assert!(forms.frame(two, &first).is_same(&first), "it is final");
    }

    #[test]
    fn nothing_is_kept_with_a_frame_that_a_history_keeps() {
        let metrics = Arc::new(Metrics::new().app("a"));
        let (mut forms, count) = (Forms::default(), Arc::<AtomicU32>::default());
        let form = forms
            .add(AppId(0), Box::new(Names(count.clone())), metrics)
            .unwrap();
        let kept = event("chat");
        assert!(forms.to_place(AppId(0), &kept).is_same(&kept));
        forms.enter(form);
        let placed = forms.to_place(AppId(0), &kept);
        assert!(!placed.is_same(&kept));
        assert_eq!(placed.bytes(), kept.bytes());
        forms.prepare(AppId(0), &placed);

        // Each replay writes it, since nothing of what was written stays.
        let forms = Arc::new(forms);
        let wire = Wire::of(form, &forms).unwrap();
        for replays in 1..=3 {
            assert_eq!(wire.replayed(&kept).bytes(), b"\x81\x04chat");
            assert_eq!(count.load(Relaxed), 1 + replays);
        }
        assert_eq!(wire.frame(&placed).bytes(), b"\x81\x04chat");
        assert_eq!(count.load(Relaxed), 4);
    }

    #[test]
    fn what_a_protocol_has_no_word_for_is_nothing() {
        let metrics = Arc::new(Metrics::new().app("a"));
        let mut forms = Forms::default();
        let form = forms
            .add(AppId(0), Box::<Names>::default(), metrics)
            .unwrap();
        assert!(
            forms
                .frame(form, &Frame::text(b"{\"op\":\"pong\"}"))
                .is_empty()
        );
        let close = Frame::close(&Close::new(4200, "draining"));
        let closed = forms.frame(form, &close);
        assert_eq!(closed.bytes(), close.bytes());
        assert!(closed.is_close());
    }

    #[test]
    fn forms_that_a_client_has_are_written_before_they_are_needed() {
        let metrics = Arc::new(Metrics::new().app("a"));
        let (mut forms, count) = (Forms::default(), Arc::<AtomicU32>::default());
        let form = forms
            .add(AppId(0), Box::new(Names(count.clone())), metrics)
            .unwrap();
        forms.prepare(AppId(0), &event("nobody"));
        forms.enter(form);
        forms.prepare(AppId(1), &event("other app"));
        assert_eq!(count.load(Relaxed), 0);
        forms.prepare(AppId(0), &event("chat"));
        forms.leave(form);
        forms.prepare(AppId(0), &event("nobody"));
        assert_eq!(count.load(Relaxed), 1);
    }
}
