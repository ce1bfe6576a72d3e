"""The lab: everything that the scripts, the notebooks and the tests use. Each line names one room:

machine    what this machine and this environment have: device, image, model, space; checked before a run
engine     way 1: the whole of sglang, in a child, under a warden
server     way 1 as people meet it: the HTTP server, its clients, and what each of them saw
upstream   a release's own code: read, checked, lifted, and what stands in for the rest of sglang
lifted     way 2: that code between two processes, one experiment at a time
evidence   what a run leaves behind: verdict, record of names, the kernel's account, last words
pictures   evidence as SVG, and the same content as text
cases      the crash and its relatives: each is made anew, with its evidence
drill      one case, dealt without its name; then the evidence for and against the reader's answer
teaching   what notebooks call: show, step, check a prediction, grade

`__main__` makes one experiment, `trigger_table` says when sglang crashes, `doctor` says what is wrong with this
machine. All rooms stand on the ground: `terminal` (options, tables, progress), `releases` (facts), `registry` (from
where packages are installed; it reads `configured`), `packages`, `places`, `folders`, `limits`, `refused`.

`teaching` and the commands use both ways. Both ways write evidence. No import leads from `engine` to `lifted` or back.
`docs/architecture.md` follows one request through both ways.
"""
