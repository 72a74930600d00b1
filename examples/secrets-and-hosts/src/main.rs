//! Fetches the URL on stdin, with the API key that the plugin's Secret holds.

use std::{
    env, error,
    io::{copy, read_to_string, stdin, stdout},
};

use wasip2::http::{
    outgoing_handler,
    types::{Fields, OutgoingRequest, Scheme},
};

fn main() -> Result<(), Box<dyn error::Error>> {
    let key = env::var("API_KEY")?;
    let url = read_to_string(stdin())?;
    let (scheme, rest) = url.trim().split_once("://").ok_or("the body must be a URL")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));

    let request = OutgoingRequest::new(Fields::from_list(&[("x-api-key".to_owned(), key.into_bytes())])?);
    let scheme = if scheme == "http" { Scheme::Http } else { Scheme::Https };
    request.set_scheme(Some(&scheme)).map_err(|()| "the URL has no scheme of HTTP")?;
    request.set_authority(Some(authority)).map_err(|()| "the URL has no host")?;
    request.set_path_with_query(Some(&format!("/{path}"))).map_err(|()| "the URL has no path")?;

    let future = outgoing_handler::handle(request, None)?;
    future.subscribe().block();
    let response = future.get().ok_or("not ready")?.map_err(|()| "taken already")??;
    if response.status() != 200 {
        return Err(format!("the host answered with status {}", response.status()).into());
    }
    let body = response.consume().map_err(|()| "taken already")?;
    copy(&mut body.stream().map_err(|()| "taken already")?, &mut stdout())?;
    Ok(())
}
