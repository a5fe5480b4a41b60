#!/usr/bin/env python3
"""check_requests.py SCHEMAS: requests of formatters against the formats of their targets.

Reads a line of JSON for each request (kind, case, method, url, headers, body) and prints a JSON object: how many were
checked, how many mutations of required members were refused (of requests with plain texts), and what is wrong. The schemas are written from the
documentation of the targets; beside JSON Schema they know maxUtf16 (length in UTF-16 units) and maxText (bytes of all
of it). What a schema cannot say is checked here: sizes in all, markup, mail.
"""
import copy
import email
import email.policy
import email.utils
import html.parser
import json
import pathlib
import re
import sys
import urllib.parse

import jsonschema


def utf16(t):
    return len(t.encode("utf-16-le", "surrogatepass")) // 2


def max_utf16(validator, limit, instance, schema):
    if isinstance(instance, str) and utf16(instance) > limit:
        yield jsonschema.ValidationError("%d UTF-16 units are more than %d" % (utf16(instance), limit))


def max_text(validator, limit, instance, schema):
    if len(json.dumps(instance)) > limit:
        yield jsonschema.ValidationError("more than %d characters in all" % limit)


Validator = jsonschema.validators.extend(jsonschema.Draft7Validator, {"maxUtf16": max_utf16, "maxText": max_text})


class Balance(html.parser.HTMLParser):
    """Tags that are not among those allowed, or not closed."""

    def __init__(self, allowed):
        super().__init__(convert_charrefs=True)
        self.allowed, self.open, self.wrong = allowed, [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.allowed:
            self.wrong.append(tag)
        if tag == "a" and not dict(attrs).get("href", "").startswith(("http://", "https://")):
            self.wrong.append("a %r" % attrs)
        if any(name.startswith("on") for name, _ in attrs):
            self.wrong.append("attribute of " + tag)
        if tag not in ("br", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append("/" + tag)


def check_markup(text, allowed):
    b = Balance(allowed)
    b.feed(text)
    b.close()
    return ["markup: %s" % w for w in b.wrong + ["unclosed " + t for t in b.open]]


def parse_mail(body):
    """A message as an object, and what is wrong with it as a message."""
    wrong = []
    raw = body.encode("ascii", "replace")
    if not body.isascii():
        wrong.append("mail is not ASCII")
    if re.search(rb"(?<!\r)\n|\r(?!\n)", raw):
        wrong.append("a line does not end with CR LF")
    if max(len(line) for line in raw.split(b"\r\n")) > 998:
        wrong.append("a line is too long")
    if any(len(line) > 78 and not line.startswith(b"Subject: ") for line in raw.split(b"\r\n\r\n")[0].split(b"\r\n")):
        wrong.append("a line of the header has more than 78 characters")
    m = email.message_from_bytes(raw, policy=email.policy.default)
    wrong += ["defect: %r" % d for part in m.walk() for d in part.defects]
    if [p.get_content_type() for p in m.walk()] != ["multipart/alternative", "text/plain", "text/html"]:
        wrong.append("parts are %s" % [p.get_content_type() for p in m.walk()])
        return {}, wrong
    if len(set(m.keys())) != len(m.keys()):
        wrong.append("a header comes twice")
    if m["Subject"] and re.search(r"[\r\n]", str(m["Subject"])):
        wrong.append("the subject has several lines")
    if email.utils.parsedate_to_datetime(str(m["Date"])) is None:
        wrong.append("date")
    doc = {name: str(value) for name, value in m.items()}
    doc["text"] = m.get_body(("plain",)).get_content()
    doc["html"] = m.get_body(("html",)).get_content().rstrip("\n")
    return doc, wrong


def parse(r):
    """What the schema of a request is about, the schema's name, and what is wrong beside it."""
    kind, body, wrong = r["kind"], r["body"], []
    name = kind
    if kind == "email":
        doc, wrong = parse_mail(body)
    elif kind == "twilio":
        doc = {k: v[0] for k, v in urllib.parse.parse_qs(body, keep_blank_values=True, strict_parsing=True).items()}
    elif kind == "sentry":
        envelope, item, event, end = body.split("\n")
        doc = {"envelope": json.loads(envelope), "item": json.loads(item), "event": json.loads(event)}
        if doc["item"]["length"] != len(event.encode()) or end != "" or doc["event"]["event_id"] != doc["envelope"]["event_id"]:
            wrong.append("envelope does not fit its event")
    else:
        doc = json.loads(body)
    if kind == "opsgenie":
        name = "opsgenie_action" if "identifierType=alias" in r["url"] else "opsgenie_create"

    limit = {"notify": 7999, "teams": 28 * 1024, "pagerduty": 512000, "opsgenie": 512 * 1024}.get(kind)
    if limit and len(body.encode()) > limit:
        wrong.append("%d bytes" % len(body.encode()))
    if kind == "discord":
        if sum(utf16(t) for e in doc["embeds"] for t in (e["title"], e["description"], e["footer"]["text"])) > 6000:
            wrong.append("more than 6000 characters")
        texts = [doc["embeds"][0]["title"], doc["embeds"][0]["description"]]
        if any(re.search(r"(?<!\\)[@<]", t) for t in texts):
            wrong.append("mention")
    if kind == "slack":
        texts = [doc["text"]] + [b["text"]["text"] for b in doc["blocks"]]
        # the only markup is our links
        if any(re.search(r"<(?!https?://[^<>|]*\|[A-Za-z]+>)|&(?!(amp|lt|gt);)", t) for t in texts):
            wrong.append("unescaped text")
    if kind == "telegram":
        wrong += check_markup(doc["text"], ("b", "a"))
    if kind == "email" and doc:
        wrong += check_markup(doc["html"], ("html", "head", "meta", "body", "div", "h2", "p", "b", "br", "a"))
        to = [a for _, a in email.utils.getaddresses([doc["To"], doc.get("Cc", "")])]
        if not set(to) <= set(r["headers"]["To"]) or r["headers"]["From"] != email.utils.parseaddr(doc["From"])[1]:
            wrong.append("envelope and header differ")
    if any(re.search(r"[\r\n\0]", v if isinstance(v, str) else "".join(v)) for v in [r["url"], *r["headers"].values()]):
        wrong.append("line end in a header")
    return doc, name, wrong


def required(schema, doc, path=()):
    """Paths of required members that a document has."""
    if isinstance(doc, dict):
        for s in [schema] + [b for b in schema.get("oneOf", []) if Validator(b).is_valid(doc)]:
            for key in s.get("required", []):
                if key in doc:
                    yield path + (key,)
            for key, sub in s.get("properties", {}).items():
                if key in doc:
                    yield from required(sub, doc[key], path + (key,))
    elif isinstance(doc, list) and doc and isinstance(schema.get("items"), dict):
        yield from required(schema["items"], doc[0], path + (0,))


def mutated(doc, path, how):
    copied = copy.deepcopy(doc)
    place = copied
    for key in path[:-1]:
        place = place[key]
    if how == "missing":
        del place[path[-1]]
    else:
        place[path[-1]] = ["another type"] if not isinstance(place[path[-1]], list) else "another type"
    return copied


def main():
    schemas = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in pathlib.Path(sys.argv[1]).glob("*.json")}
    for schema in schemas.values():
        jsonschema.Draft7Validator.check_schema(schema)
    checked, mutations, wrong = {}, 0, []
    for line in sys.stdin:
        r = json.loads(line)
        where = "%s, %s: " % (r["kind"], r["case"])
        try:
            doc, name, found = parse(r)
        except Exception as e:  # a body that cannot be read at all is one more finding
            wrong.append(where + repr(e))
            continue
        v = Validator(schemas[name])
        found += ["%s at %s" % (e.message[:200], "/".join(map(str, e.absolute_path))) for e in v.iter_errors(doc)]
        if not found and r["case"].endswith(("plain", "test")):
            for path in set(required(schemas[name], doc)):
                for how in ("missing", "type"):
                    mutations += 1
                    if v.is_valid(mutated(doc, path, how)):
                        found.append("%s of %s is not noticed" % (how, "/".join(map(str, path))))
        checked[name] = checked.get(name, 0) + 1
        wrong += [where + f for f in found]
    print(json.dumps({"checked": checked, "mutations": mutations, "wrong": wrong}))


main()
