// The page has another name now: go on to the same section of it.
location.replace(document.querySelector("a").href + location.hash);
