"""What a model would take of this machine and how fast it would be, before it is downloaded.

variant     what a name can mean, from heads alone
work        what one token makes a processor do
machine     how fast this one does that, measured once and kept
speed       tokens a second, and the time to the first one
memory      bytes, where they lie
fit         all of it as rows, with a verdict each
"""
