// Fills in what only the browser knows: which peer answered, how long it took,
// and where the other peers are. Every page reads well without this script.
(function () {
  "use strict";

  var panel = document.getElementById("served");
  if (!panel) return;

  function put(id, text) {
    var place = document.getElementById(id);
    if (place) place.textContent = text;
  }

  function inMs(value) {
    return value < 10 ? value.toFixed(1) + " ms" : Math.round(value) + " ms";
  }

  function inBytes(value) {
    if (value < 1024) return value + " B";
    if (value < 1048576) return (value / 1024).toFixed(1) + " KiB";
    return (value / 1048576).toFixed(2) + " MiB";
  }

  function measure() {
    var page = performance.getEntriesByType("navigation")[0];
    if (!page) return;
    put("first-byte", inMs(Math.max(0, page.responseStart - page.startTime)));
    put("loaded", inMs(Math.max(0, page.loadEventEnd - page.startTime)));

    var files = performance.getEntriesByType("resource").concat(page);
    var bytes = 0;
    files.forEach(function (file) { bytes += file.transferSize || 0; });
    put("moved", bytes ? files.length + " files, " + inBytes(bytes) : files.length + " files, from cache");
  }

  function listPeers(ports) {
    var here = Number(location.port);
    if (ports.indexOf(here) < 0) return;      // not one of the demo's peers
    var list = document.getElementById("peer-list");
    ports.forEach(function (port) {
      var item = document.createElement("li");
      var mark = document.createElement(port === here ? "span" : "a");
      mark.textContent = location.hostname + ":" + port;
      if (location.hostname.length > 24) mark.textContent = "port " + port;
      if (port === here) {
        mark.className = "here";
        mark.setAttribute("aria-current", "true");
      } else {
        mark.href = location.protocol + "//" + location.hostname + ":" + port + location.pathname;
      }
      item.appendChild(mark);
      list.appendChild(item);
    });
    document.getElementById("peers").hidden = false;
  }

  put("host", location.host || "a file on this machine");
  panel.hidden = false;

  if (document.readyState === "complete") setTimeout(measure, 0);
  else window.addEventListener("load", function () { setTimeout(measure, 0); });

  if (location.port) {
    fetch("/data/peers.json")
      .then(function (answer) { return answer.ok ? answer.json() : { ports: [] }; })
      .then(function (data) { listPeers(data.ports || []); })
      .catch(function () { /* the page is complete without the list */ });
  }
})();
