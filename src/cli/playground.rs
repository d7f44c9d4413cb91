//! `netloom playground`: a page on which small nets are built, trained by this process, and looked into.
//!
//! `/` is the page; `/train` trains by the settings in its query and tells of it as server-sent events: `compiled` once, `frame` again and
//! again, `failed` if it cannot go on; `/compiled` is the compiler's page of that net's training step.

mod lesson;

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use clap::Args;
use netloom::compile::lower;
use netloom::nn::training::TRAIN_STEP;
use netloom::page::html;
use netloom::{Device, Error};
use serde::Serialize;
use tokio::sync::mpsc::{Sender, channel};
use tokio_stream::wrappers::ReceiverStream;

use lesson::{Lesson, Settings};

#[derive(Args)]
pub struct Options {
    /// The port of this machine where the page is served, to this machine alone; 0 is any that is free
    #[arg(long, default_value_t = 8642)]
    port: u16,
    #[command(flatten)]
    machine: super::Machine,
}

/// Epochs from one picture to the next.
const EPOCHS: usize = 2;
/// The least time from one picture to the next.
const PAUSE: Duration = Duration::from_millis(40);
/// Pictures on their way: a page that does not keep up holds the training back.
const UNDER_WAY: usize = 2;

pub fn run(options: &Options) -> Result<(), Error> {
    let device = options.machine.choice()?.device;
    let failed = |reason: std::io::Error| {
        let port = options.port;
        Error::Usage(format!("port {port}: {reason}; another is chosen with `--port`"))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    runtime.map_err(failed)?.block_on(async {
        let place = SocketAddr::from((Ipv4Addr::LOCALHOST, options.port));
        let listener = tokio::net::TcpListener::bind(place).await.map_err(failed)?;
        let place = listener.local_addr().map_err(failed)?;
        println!("the playground is at http://{place} until Ctrl-C");
        axum::serve(listener, routes(device)).await.map_err(failed)
    })
}

fn routes(device: Device) -> Router {
    Router::new()
        .route("/", get(async || Html(include_str!("playground/page.html"))))
        .route("/train", get(train))
        .route("/compiled", get(compiled))
        .with_state(device)
}

/// What the user got wrong.
fn refused(error: &Error) -> Response {
    (StatusCode::BAD_REQUEST, error.to_string()).into_response()
}

async fn compiled(State(device): State<Device>, Query(settings): Query<Settings>) -> Response {
    let page = || {
        let lowered = lower(&settings.program()?, &device.target())?;
        html(
            "The training step of the playground",
            TRAIN_STEP,
            &lowered,
            &device,
            None,
        )
    };
    match page() {
        Ok(page) => Html(page).into_response(),
        Err(error) => refused(&error),
    }
}

async fn train(State(device): State<Device>, Query(settings): Query<Settings>) -> Response {
    if let Err(error) = settings.check() {
        return refused(&error);
    }
    let (told, heard) = channel(UNDER_WAY);
    std::thread::spawn(move || teach(settings, &device, &told));
    Sse::new(ReceiverStream::new(heard)).into_response()
}

/// Trains until it is done, or nobody looks any more.
fn teach(settings: Settings, device: &Device, told: &Told) {
    let epochs = settings.epochs;
    let mut lesson = match Lesson::begin(settings, device) {
        Ok(lesson) => lesson,
        Err(error) => return tell_failure(told, &error),
    };
    let mut is_heard = tell(told, "compiled", lesson.compiled());
    for done in (0..epochs).step_by(EPOCHS) {
        if !is_heard {
            return;
        }
        is_heard = tell(told, "frame", lesson.go_on(EPOCHS.min(epochs - done)));
        std::thread::sleep(PAUSE);
    }
}

/// Where events go.
type Told = Sender<Result<Event, Infallible>>;

/// Sends what there is to say, or why there is nothing; gives whether to go on.
fn tell(told: &Told, name: &str, what: Result<impl Serialize, Error>) -> bool {
    let text = what.and_then(|what| serde_json::to_string(&what).map_err(|reason| Error::Training(reason.to_string())));
    match text {
        Ok(text) => told.blocking_send(Ok(Event::default().event(name).data(text))).is_ok(),
        Err(error) => {
            tell_failure(told, &error);
            false
        }
    }
}

fn tell_failure(told: &Told, error: &Error) {
    // If nobody listens, nobody need know.
    let _ = told.blocking_send(Ok(Event::default().event("failed").data(error.to_string())));
}
