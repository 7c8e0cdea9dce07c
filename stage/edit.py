import re,sys
def sub(path, *pairs):
    t=open(path).read()
    for a,b in pairs:
        if a not in t: print("MISSING", path, repr(a[:80])); continue
        t=t.replace(a,b,1)
    open(path,'w').write(t)
