# One question in, one answer out: 203.0.113.11 is every name's address, and there are no other records. What follows a question
# (EDNS) is left out of the answer.
sysread STDIN, my $asked, 4096;
exit if length $asked < 17;
my $at = 12;
$at += 1 + ord substr $asked, $at, 1 while $at < length $asked && ord substr $asked, $at, 1;
my $question = substr $asked, 12, $at + 5 - 12;
my $is_address = substr($question, -4) eq "\0\1\0\1";
my $record = $is_address ? pack("n n n N n C4", 0xc00c, 1, 1, 60, 4, 203, 0, 113, 11) : "";
syswrite STDOUT, substr($asked, 0, 2) . pack("n5", 0x8180, 1, $is_address ? 1 : 0, 0, 0) . $question . $record;
